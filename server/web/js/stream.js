import { ApiError } from "./api.js";

/** @typedef {{event: string, data: any}} ServerEvent */

const FIRST_WAIT_MS = 400;
const LONGEST_WAIT_MS = 5000;

/**
 * Follow the events of a request over as many connections as it takes: the server may be restarted meanwhile, and
 * still paints what it had accepted. EventSource cannot send a key, so the stream is read here.
 * @param {import("./api.js").Api} api
 * @param {string} id
 * @param {AbortSignal} signal
 * @param {(lost: boolean) => void} connection called when it breaks and when it is back
 * @returns {AsyncGenerator<ServerEvent>} ends with `done` or `failed`
 * @throws {ApiError} the server does not know the request, or refuses
 */
export async function* follow(api, id, signal, connection) {
  for (let wait = FIRST_WAIT_MS; ; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
    try {
      const body = await api.events(id, signal);
      connection(false);
      for await (const event of serverSentEvents(body)) {
        wait = FIRST_WAIT_MS;
        yield event;
        if (event.event === "done" || event.event === "failed") return;
      }
    } catch (error) {
      if (signal.aborted || isFinal(error)) throw error;
    }
    connection(true);
    await pause(wait, signal);
  }
}

/** True for an answer that will be the same next time; 503 and no answer are not. @param {unknown} error */
function isFinal(error) {
  return error instanceof ApiError && error.status !== 0 && error.status < 500 && error.status !== 429;
}

/** @param {ReadableStream<Uint8Array<ArrayBuffer>>} body @returns {AsyncGenerator<ServerEvent>} */
async function* serverSentEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      held += value;
      const blocks = held.split(/\r?\n\r?\n/);
      held = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parse(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may be broken already
  }
}

/**
 * @param {string} block lines between two empty ones
 * @returns {?ServerEvent} null for a comment, which keeps the connection open
 */
function parse(block) {
  /** @type {Record<string, string>} */
  const values = { event: "message", data: "" };
  for (const line of block.split(/\r?\n/)) {
    const at = line.indexOf(":");
    const name = line.slice(0, at);
    if (name in values) values[name] = line.slice(at + 1).trimStart();
  }
  return values.data ? { event: values.event, data: JSON.parse(values.data) } : null;
}

/** @param {number} ms @param {AbortSignal} signal */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}
