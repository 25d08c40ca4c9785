// The token, where the server wants one and the browser has no cookie that stands for it.

import { byId } from "./dom.js";
import { NO_ANSWER, reach } from "./reach.js";

reach.addEventListener("locked", () => {
  if (!byId("lock").open) byId("lock").showModal();
});
byId("lock").addEventListener("cancel", (event) => event.preventDefault()); // there is nothing behind it,
byId("lock").addEventListener("close", () => byId("lock").showModal()); // and a browser lets it be closed all the same
byId("lock-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const field = byId("token"), line = byId("lock-wrong");
  line.textContent = "";
  try {
    const visit = await fetch(`/?${new URLSearchParams({ token: field.value })}`, { redirect: "manual" });
    // The cookie came, or another tab has had it since; the address stays as it is.
    if (visit.type === "opaqueredirect" || visit.ok) return location.reload();
    line.textContent = visit.status === 401 ? "Wrong token." : `The server answered with ${visit.status}.`;
  } catch {
    line.textContent = NO_ANSWER;
  }
  field.select();
});
