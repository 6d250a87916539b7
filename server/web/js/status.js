import { byId, duration, show } from "./dom.js";
import { t } from "./i18n.js";

/** @typedef {import("./painting.js").Painting} Painting @typedef {import("./job.js").Progress} Progress */

const TITLE = document.title;
/** The texts that screen readers get for a state. @type {Record<string, string>} */
const ANNOUNCED = {
  sending: t("Sending the picture."),
  painting: t("Painting."),
  lost: t("The connection is lost; trying again."),
};

/** How far the painting is that the server is at, below the Paint button. */
export class StatusView {
  #bar = byId("progress-bar");
  #text = byId("progress-text");
  #state = "";

  /** @param {Painting} painting */
  constructor(painting) {
    this.painting = painting;
    byId("cancel").addEventListener("click", () => painting.front?.cancel());
    painting.addEventListener("progress", () => this.#show());
    painting.addEventListener("jobs", () => this.#show());
    this.#show();
  }

  /** Announce a text to screen readers. @param {string} text */
  say(text) {
    byId("live").textContent = text;
  }

  #show() {
    const { front } = this.painting;
    const hadFocus = document.activeElement?.id === "cancel";
    show(byId("progress"), front !== null);
    if (hadFocus && !front) byId("paint").focus();
    this.#text.textContent = front ? stateOf(front.progress) : "";
    const { step, steps } = front?.progress ?? { step: 0, steps: 0 };
    if (steps > 0) this.#bar.value = step / steps;
    else this.#bar.removeAttribute("value"); // still unknown: the bar moves by itself
    // Seen from another tab.
    document.title = steps > 0 ? `${Math.floor((100 * step) / steps)} % · ${TITLE}` : TITLE;
    this.#announce(front?.progress.state ?? "");
  }

  /** Announce a new state; not each step, since there may be fifty. @param {string} state */
  #announce(state) {
    if (state === this.#state) return;
    this.#state = state;
    if (ANNOUNCED[state]) this.say(ANNOUNCED[state]);
  }
}

/** A job's state in a sentence. @param {Progress} progress */
export function stateOf({ state, step, steps, position, leftS }) {
  if (state === "sending") return t("Sending the picture…");
  if (state === "lost") return t("The server does not answer; trying again. It goes on where it was.");
  if (state === "fetching") return t("Fetching the pictures…");
  if (state === "failed") return t("Not painted.");
  if (state === "over") return "";
  if (state === "queued") {
    return position ? t("Waiting: {count} before this one.", { count: position }) : t("Waiting for its turn…");
  }
  if (step === steps) return t("Writing the pictures…");
  if (leftS === null) return t("Step {step} of {steps}", { step, steps });
  return t("Step {step} of {steps} · {time} left", { step, steps, time: duration(leftS) });
}
