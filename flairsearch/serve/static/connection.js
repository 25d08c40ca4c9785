// Tells the page whether the server can be reached, and probes the server until it answers again.

const FIRST_PROBE_MS = 1500; // The delay before the first probe; every further delay is twice as long.
const MAX_PROBE_MS = 12000; // The longest delay between two probes.

export const NO_ANSWER = "The server does not answer. Is “flairsearch serve” still running?";

/**
 * Its events: "lost" when a request got no answer, "retry" when failed requests should be sent again (the server
 * answers, or the user pressed a button), "unauthorized" when the server asks for its token.
 */
export const connection = new EventTarget();

let timer = 0;
let delay = FIRST_PROBE_MS;

export const notify = (event) => connection.dispatchEvent(new Event(event));

export function reportAnswer() {
  delay = FIRST_PROBE_MS;
}

/** Starts to probe the server after a request without an answer, unless a probe is already planned. */
export function reportNoAnswer() {
  if (timer) return;
  timer = setTimeout(probe, delay);
  delay = Math.min(2 * delay, MAX_PROBE_MS);
  notify("lost");
}

async function probe() {
  let answers = false;
  try {
    answers = (await fetch("/api/v1/health", { cache: "no-store" })).ok;
  } catch { /* The server is still away. */ }
  timer = 0;
  if (answers) notify("retry");
  else reportNoAnswer();
}
