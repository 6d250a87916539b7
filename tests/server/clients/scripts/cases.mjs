// Runs the cases of a client and writes down what it showed, as cases.py does: `SCRIPT URL KEY POOR_KEY PICTURES OUTPUT`.

import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const [, , url, key, poorKey, pictures, output] = process.argv;

export const URL = url;
export const KEY = key;
export const POOR_KEY = poorKey;
export const WRONG_KEY = "inp_0123456789abcdef";
export const PROMPT = "a red circle";
export const FAILING = "blank"; // a prompt for which the server under test fails

/** The requests of the current case, if the script notes them. */
export const sent = [];

/** @param {string} name */
export const picture = (name) => readFileSync(join(pictures, name));

/**
 * Run every case, whatever the others throw.
 * @param {Record<string, () => Promise<{files?: Uint8Array[], facts?: object}>>} cases
 */
export async function run(cases) {
  /** @type {Record<string, object>} */
  const shown = {};
  for (const [name, act] of Object.entries(cases)) {
    const started = performance.now();
    sent.length = 0;
    const result = await act().then(
      ({ files = [], facts = {} }) => {
        files.forEach((file, number) => writeFileSync(join(output, `${name}-${number}`), file));
        return { pictures: files.length, facts };
      },
      (error) => ({ error: described(error) }),
    );
    const seconds = Math.round(performance.now() - started) / 1000;
    shown[name] = { ...result, requests: sent.length, seconds };
  }
  writeFileSync(join(output, "shown.json"), JSON.stringify(shown, null, 1));
}

/** The classes of an error, the base classes included, its text, and what else it tells. */
function described(error) {
  const classes = [];
  for (let proto = error; (proto = Object.getPrototypeOf(proto)); ) classes.push(proto.constructor.name);
  const told = Object.entries(error).filter(([, value]) => ["string", "number"].includes(typeof value));
  return { classes, text: error.message, ...Object.fromEntries(told) };
}
