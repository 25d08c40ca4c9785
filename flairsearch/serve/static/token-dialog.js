// The dialog that asks for the server's token when the browser has no cookie for it.

import { byId } from "./dom.js";
import { connection, NO_ANSWER } from "./connection.js";

const dialog = byId("token-dialog");

connection.addEventListener("unauthorized", () => {
  if (!dialog.open) dialog.showModal();
});
dialog.addEventListener("cancel", (event) => event.preventDefault()); // The page cannot be used without the token.
dialog.addEventListener("close", () => dialog.showModal()); // Browsers close a dialog on the second Esc all the same.
byId("token-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("token"), errorLine = byId("token-error");
  errorLine.textContent = "";
  try {
    const visit = await fetch(`/?${new URLSearchParams({ token: field.value })}`, { redirect: "manual" });
    // The server set the cookie, or another tab has got it meanwhile. Reloading keeps the URL of the page.
    if (visit.type === "opaqueredirect" || visit.ok) return location.reload();
    errorLine.textContent = visit.status === 401 ? "Wrong token." : `The server answered with status ${visit.status}.`;
  } catch {
    errorLine.textContent = NO_ANSWER;
  }
  field.select();
});
