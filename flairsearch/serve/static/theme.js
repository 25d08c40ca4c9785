// Sets light or dark before the first paint. This is a classic script in the head: modules would run too late.
"use strict";
{
  const THEMES = ["auto", "light", "dark"];
  let theme = "auto";
  try {
    const stored = localStorage.getItem("theme");
    if (THEMES.includes(stored)) theme = stored;
  } catch { /* Storage may be switched off; the page follows the system then. */ }
  document.documentElement.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const updateLabel = () => {
      button.title = `Colours: ${theme === "auto" ? "same as the system" : theme}`;
      button.setAttribute("aria-label", `${button.title}. Change`);
    };
    updateLabel();
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      document.documentElement.dataset.theme = theme;
      try { localStorage.setItem("theme", theme); } catch { /* The choice lasts until the page is closed. */ }
      updateLabel();
    });
  });
}
