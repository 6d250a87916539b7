import { byId, duration, show } from "./dom.js";

/** @typedef {import("./painting.js").Painting} Painting @typedef {import("./painting.js").Progress} Progress */

const TITLE = document.title;
/** What is said aloud of a state. */
const SAID = {
  sending: "Sending the picture.",
  painting: "Painting.",
  lost: "The connection is lost; trying again.",
};

/** The Paint button's place: the button, or how far the painting is. */
export class StatusView {
  #bar = byId("progress-bar");
  #text = byId("progress-text");
  #said = "";

  /** @param {Painting} painting */
  constructor(painting) {
    this.painting = painting;
    byId("cancel").addEventListener("click", () => painting.cancel());
    painting.addEventListener("progress", () => this.#show());
    this.#show();
  }

  /** For those who hear the page. @param {string} text */
  say(text) {
    byId("live").textContent = text;
  }

  #show() {
    const { progress, running } = this.painting;
    const hadFocus = document.activeElement?.id === "cancel";
    show(byId("progress"), running);
    show(byId("paint"), !running);
    if (hadFocus && !running) byId("paint").focus();
    this.#text.textContent = running ? textOf(progress) : "";
    if (progress.steps > 0) this.#bar.value = progress.step / progress.steps;
    else this.#bar.removeAttribute("value"); // still unknown: the bar moves by itself
    // For those who look at another tab meanwhile.
    document.title = progress.steps > 0 ? `${Math.floor((100 * progress.step) / progress.steps)} % · ${TITLE}` : TITLE;
    this.#announce(progress);
  }

  /** States, not steps: nobody wants to hear each of fifty. */
  #announce({ state }) {
    if (state === this.#said) return;
    this.#said = state;
    if (SAID[state]) this.say(SAID[state]);
  }
}

/** @param {Progress} progress */
function textOf({ state, step, steps, position, leftS }) {
  if (state === "sending") return "Sending the picture…";
  if (state === "lost") return "The server does not answer; trying again. It goes on where it was.";
  if (state === "fetching") return "Fetching the pictures…";
  if (state === "queued") return position ? `Waiting: ${position} before this one.` : "Waiting for its turn…";
  return `Step ${step} of ${steps}${leftS === null ? "" : ` · ${duration(leftS)} left`}`;
}
