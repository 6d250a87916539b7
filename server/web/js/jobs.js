import { byId, h, show } from "./dom.js";
import { icon } from "./icons.js";
import { t } from "./i18n.js";
import { stateOf } from "./status.js";

/** @typedef {import("./job.js").Job} Job @typedef {import("./painting.js").Painting} Painting */
/** @typedef {{job: Job, item: HTMLElement, state: HTMLElement, bar: HTMLProgressElement, url: string}} Card */

/** The strip of paintings that were asked for on this picture, above the results: each with its mask, its progress and its end. */
export class JobsView {
  /** @type {Map<Job, Card>} */
  #cards = new Map();
  #list = byId("jobs");

  /** @param {Painting} painting */
  constructor(painting) {
    this.painting = painting;
    painting.addEventListener("jobs", () => this.#show());
    painting.addEventListener("progress", () => this.#update());
  }

  #show() {
    const { here: jobs } = this.painting;
    const hadFocus = this.#list.contains(document.activeElement);
    for (const [job, { item, url }] of this.#cards) {
      if (jobs.includes(job)) continue;
      URL.revokeObjectURL(url);
      item.remove();
      this.#cards.delete(job);
    }
    for (const job of jobs) {
      if (this.#cards.has(job)) continue;
      const card = this.#newCard(job);
      this.#cards.set(job, card);
      this.#list.append(card.item);
    }
    show(this.#list, jobs.length > 0);
    if (hadFocus && !this.#list.contains(document.activeElement)) byId("paint").focus();
    this.#update();
  }

  /** @param {Job} job @returns {Card} */
  #newCard(job) {
    const { settings, thumbnail } = job.order;
    const prompt = String(settings.prompt || t("no prompt"));
    const url = thumbnail ? URL.createObjectURL(thumbnail) : "";
    const state = h("span", { class: "job-state number muted", "data-testid": "job-state" });
    const bar = h("progress", { max: 1, "aria-label": t("Painting {prompt}", { prompt }) });
    const retry = this.#button("redo", t("Try again"), "job-again", () => this.painting.again(job));
    const cancel = this.#button("close", t("Cancel {prompt}", { prompt }), "job-cancel", () => this.#end(job));
    const words = h("span", { class: "job-words" }, h("span", { class: "job-prompt" }, prompt), state, bar);
    const image = h("img", { src: url, alt: "" });
    const item = h("li", { class: "job", title: prompt, "data-testid": "job" }, image, words, retry, cancel);
    return { job, item, state, bar, url };
  }

  /** @param {import("./icons.js").Icon} name @param {string} label @param {string} testid @param {() => void} run */
  #button(name, label, testid, run) {
    const attributes = { type: "button", class: "icon-button", title: label, "aria-label": label };
    return h("button", { ...attributes, "data-testid": testid, click: run }, icon(name));
  }

  /** @param {Job} job */
  #end(job) {
    if (job.running) job.cancel();
    else this.painting.remove(job);
  }

  #update() {
    for (const { job, item, state, bar } of this.#cards.values()) {
      const { progress } = job;
      item.dataset.state = progress.state;
      const text = stateOf(progress);
      if (state.textContent !== text) state.textContent = text;
      show(bar, job.running);
      if (progress.steps > 0) bar.value = progress.step / progress.steps;
      else bar.removeAttribute("value");
    }
  }
}
