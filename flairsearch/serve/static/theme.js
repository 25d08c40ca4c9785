// Light or dark before the first paint: a classic script in the head, as modules run too late for that.
"use strict";
{
  const THEMES = ["auto", "light", "dark"];
  let theme = "auto";
  try {
    const kept = localStorage.getItem("theme");
    if (THEMES.includes(kept)) theme = kept;
  } catch { /* storage may be switched off: the page follows the system then */ }
  document.documentElement.dataset.theme = theme;

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const name = () => {
      button.title = `Colours: ${theme === "auto" ? "as the system" : theme}`;
      button.setAttribute("aria-label", `${button.title}. Change`);
    };
    name();
    button.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      document.documentElement.dataset.theme = theme;
      try { localStorage.setItem("theme", theme); } catch { /* it lasts as long as the page */ }
      name();
    });
  });
}
