import { byId, duration, show } from "./dom.js";

/** @typedef {import("./painting.js").Painting} Painting @typedef {import("./painting.js").Progress} Progress */

const TITLE = document.title;
/** The texts that screen readers get for a state. @type {Record<string, string>} */
const ANNOUNCED = {
  sending: "Sending the picture.",
  painting: "Painting.",
  lost: "The connection is lost; trying again.",
};

/** The Paint button's place: the button, or how far the painting is. */
export class StatusView {
  #bar = byId("progress-bar");
  #text = byId("progress-text");
  #state = "";

  /** @param {Painting} painting */
  constructor(painting) {
    this.painting = painting;
    byId("cancel").addEventListener("click", () => painting.cancel());
    painting.addEventListener("progress", () => this.#show());
    this.#show();
  }

  /** Announce a text to screen readers. @param {string} text */
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
    // Seen from another tab.
    document.title = progress.steps > 0 ? `${Math.floor((100 * progress.step) / progress.steps)} % · ${TITLE}` : TITLE;
    this.#announce(progress);
  }

  /** Announce a new state; not each step, since there may be fifty. @param {Progress} progress */
  #announce({ state }) {
    if (state === this.#state) return;
    this.#state = state;
    if (ANNOUNCED[state]) this.say(ANNOUNCED[state]);
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
