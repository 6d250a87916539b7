// What the tests of the editor hold on to: an editor, its modules, and bytes in and out as base64.
import { Editor } from "/web/js/editor/editor.js";
import * as box from "/web/js/editor/box.js";
import * as history from "/web/js/editor/history.js";
import { Mask } from "/web/js/editor/mask.js";
import * as morphology from "/web/js/editor/morphology.js";
import * as ops from "/web/js/editor/ops.js";
import * as picture from "/web/js/editor/picture.js";
import * as snapshot from "/web/js/editor/snapshot.js";

/** A new editor in place of the last one. */
function reset() {
  const host = document.createElement("main");
  host.id = "host";
  document.body.replaceChildren(host);
  const editor = new Editor(host);
  const events = [];
  for (const type of ["change", "tool", "view", "split"]) editor.addEventListener(type, () => events.push(type));
  Object.assign(window.harness, { editor, events });
}

const blobOf = (base64, type = "image/png") =>
  new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type });

async function base64Of(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

const frames = (n) =>
  new Promise((resolve) => {
    const next = () => (n-- > 0 ? requestAnimationFrame(next) : resolve());
    next();
  });

window.harness = { reset, box, history, Mask, morphology, ops, picture, snapshot, blobOf, base64Of, frames };
reset();
window.ready = true;
