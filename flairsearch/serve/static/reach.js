// Whether the server answers. Where it does not, it is asked until it does.

const SOON = 1500, LATER = 12000; // ms from one knock to the next

export const NO_ANSWER = "The server does not answer. Is “flairsearch serve” still running?";
export const reach = new EventTarget(); // "lost"; "back": it answers again, or somebody wants to try; "locked": it wants the token
let timer = 0, pause = SOON;

export const say = (what) => reach.dispatchEvent(new Event(what));

export function answered() {
  pause = SOON;
}

/** No answer came. */
export function lost() {
  if (timer) return;
  timer = setTimeout(knock, pause);
  pause = Math.min(2 * pause, LATER);
  say("lost");
}

async function knock() {
  let answers = false;
  try {
    answers = (await fetch("/api/v1/health", { cache: "no-store" })).ok;
  } catch { /* still away */ }
  timer = 0;
  if (answers) say("back");
  else lost();
}
