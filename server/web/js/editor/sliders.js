/** @typedef {{x: number, y: number}} Point */

/**
 * A handle on the picture that moves a number, by pointer or keys: an ARIA slider.
 * @param {object} of
 * @param {string} of.testid
 * @param {string} of.label
 * @param {string} of.className
 * @param {Record<string, number>} of.keys what a key adds; Shift makes it an eighth, at least 1
 * @param {(event: PointerEvent) => number} of.valueAt what the number is when the handle is dragged to the pointer
 * @param {() => number} of.value
 * @param {(value: number) => void} of.set while it moves
 * @param {() => void} of.done when it rests
 * @returns {HTMLElement}
 */
export function slider({ testid, label, className, keys, valueAt, value, set, done }) {
  const element = document.createElement("div");
  element.className = className;
  element.tabIndex = 0;
  element.setAttribute("role", "slider");
  element.setAttribute("aria-label", label);
  element.dataset.testid = testid;
  dragged(element, (event) => set(valueAt(event)), done);
  element.addEventListener("keydown", (event) => {
    if (!Object.hasOwn(keys, event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const by = keys[event.key];
    set(value() + (event.shiftKey ? Math.sign(by) * Math.max(1, Math.abs(by) / 8) : by));
  });
  element.addEventListener("keyup", (event) => Object.hasOwn(keys, event.key) && done());
  element.addEventListener("blur", done); // the key may be lifted elsewhere
  return element;
}

/** @param {HTMLElement} element @param {(event: PointerEvent) => void} move @param {() => void} done */
function dragged(element, move, done) {
  /** @type {?number} */
  let id = null;
  /** @param {PointerEvent} event */
  const stop = (event) => {
    if (event.pointerId !== id) return;
    id = null;
    done();
  };
  element.addEventListener("pointerdown", (event) => {
    event.stopPropagation(); // the picture below would be painted on
    if (id !== null || event.button !== 0) return;
    event.preventDefault();
    element.focus({ preventScroll: true });
    element.setPointerCapture(event.pointerId);
    id = event.pointerId;
  });
  element.addEventListener("pointermove", (event) => {
    if (id === null) return;
    event.stopPropagation();
    if (event.pointerId === id) move(event);
  });
  element.addEventListener("pointerup", stop);
  element.addEventListener("pointercancel", stop);
}

/**
 * Set what a screen reader says of a slider.
 * @param {HTMLElement} element @param {number} now @param {number} max @param {string} text
 */
export function setValue(element, now, max, text) {
  element.setAttribute("aria-valuemin", "0");
  element.setAttribute("aria-valuemax", String(max));
  element.setAttribute("aria-valuenow", String(now));
  element.setAttribute("aria-valuetext", text);
}

/** @param {HTMLElement} element @param {Point} at CSS pixels of the host */
export function place(element, at) {
  element.style.transform = `translate(${at.x}px, ${at.y}px)`;
}
