import { Api } from "./api.js";
import { App } from "./app.js";
import { Database } from "./database.js";
import { displaying } from "./displaying.js";
import { byId } from "./dom.js";
import { Editor } from "./editor/editor.js";
import { t, translatePage } from "./i18n.js";
import { icon } from "./icons.js";
import { installable } from "./installing.js";
import { Keyring } from "./keyring.js";
import { ctrl, key, Shortcuts, TYPING } from "./shortcuts.js";
import { claimWorkspace } from "./workspace.js";

const ZOOM = 1.25;
const BRUSH = 1.15;

/** @param {App} app @returns {import("./shortcuts.js").Shortcut[]} */
function table(app) {
  const { editor, film, comparing } = app;
  /** @param {import("./editor/editor.js").Tool} name */
  const tool = (name) => () => (editor.tool = name);
  const smaller = () => editor.resizeBrush(1 / BRUSH);
  return [
    { keys: "Ctrl Enter", label: t("Paint"), fits: ctrl("enter"), run: () => app.asking.paint(), inFields: true },
    { keys: "Esc", label: t("Leave a field; hide the result; cancel the newest job"), fits: key("escape"), run: () => escape(app), inFields: true },
    { keys: "B", label: t("Brush; Shift draws straight from the last point"), fits: key("b"), run: tool("brush") },
    { keys: "E", label: t("Eraser; also the right mouse button"), fits: key("e"), run: tool("eraser") },
    { keys: "L", label: t("Lasso"), fits: key("l"), run: tool("lasso") },
    { keys: "P", label: t("Polygon"), fits: key("p"), run: tool("polygon") },
    { keys: "R", label: t("Rectangle"), fits: key("r"), run: tool("rectangle") },
    { keys: "W", label: t("Magic wand; Alt takes away"), fits: key("w"), run: tool("wand") },
    { keys: "S", label: t("Snap to the edge of what is drawn over"), fits: key("s"), run: tool("snap") },
    { keys: "A", label: t("Click an object; Alt takes it away"), fits: key("a"), run: tool("click") },
    { keys: "H", label: t("Move the view; also the middle button, or Space and drag"), fits: key("h"), run: tool("pan") },
    { keys: "[ ]", label: t("Smaller and larger brush; also Alt and the wheel"), fits: key("["), run: smaller },
    { keys: "X", label: t("Invert the mask"), fits: key("x"), run: () => editor.invert() },
    { keys: "Ctrl Z", label: t("Undo"), fits: ctrl("z"), run: () => editor.undo() },
    { keys: "Ctrl Y", label: t("Redo; also Ctrl Shift Z"), fits: ctrl("y"), run: () => editor.redo() },
    { keys: "K", label: t("Keep the result"), fits: key("k"), run: () => app.keeping.keep(film.selected ?? undefined) },
    { keys: "C", label: t("Compare it with the picture"), fits: key("c"), run: () => comparing.toggle() },
    { keys: ", .", label: t("Newer and older result"), fits: key(","), run: () => film.step(-1) },
    { keys: "Space", label: t("Hold: see the original"), fits: () => false, run: null },
    { keys: "+ −", label: t("Zoom; also the wheel"), fits: key("+", "="), run: () => editor.zoomBy(ZOOM) },
    { keys: "0", label: t("Fit the picture into the window"), fits: key("0"), run: () => editor.fit() },
    { keys: "Ctrl O", label: t("Open a picture"), fits: ctrl("o"), run: () => app.opening.choosePicture() },
    { keys: "Ctrl S", label: t("Download"), fits: ctrl("s"), run: () => app.working.download() },
    { keys: "Arrows", label: t("Move a crosshair; Enter or Space paints there"), fits: () => false, run: null },
  ];
}

/** Leave the field, else put the result away, else cancel the painting that was asked for last. @param {App} app */
function escape({ painting, film }) {
  if (document.activeElement?.matches(TYPING)) byId("host").focus();
  else if (film.selected) film.select(null);
  else painting.running.at(-1)?.cancel();
}

/** Keys that share a line of the table with another. @param {App} app */
function more(app) {
  const { editor, film } = app;
  return [
    { fits: key("]"), run: () => editor.resizeBrush(BRUSH) },
    { fits: ctrl("z", true), run: () => editor.redo() },
    { fits: key("."), run: () => film.step(1) },
    { fits: key("-", "−"), run: () => editor.zoomBy(1 / ZOOM) },
  ];
}

/** @param {App} app */
function connectButtons(app) {
  const { editor, comparing, opening } = app;
  const shortcuts = new Shortcuts(table(app), more(app), (held) => (editor.original = held));
  const clicks = {
    open: () => opening.choosePicture(),
    "open-first": () => opening.choosePicture(),
    example: () => app.working.openExample(),
    undo: () => editor.undo(),
    redo: () => editor.redo(),
    "zoom-out": () => editor.zoomBy(1 / ZOOM),
    "zoom-in": () => editor.zoomBy(ZOOM),
    fit: () => editor.fit(),
    compare: () => comparing.toggle(),
    download: () => app.working.download(),
    help: () => shortcuts.open(),
    paint: () => app.asking.paint(),
  };
  for (const [id, run] of Object.entries(clicks)) byId(id).addEventListener("click", run);
  for (const place of document.querySelectorAll("[data-icon]")) {
    place.prepend(icon(/** @type {import("./icons.js").Icon} */ (place.getAttribute("data-icon"))));
  }
  holdOriginal(editor);
  ringForKeys(byId("host"));
  editor.addEventListener("view", () => (byId("zoom").textContent = `${Math.round(editor.zoom * 100)} %`));
}

/** Show the original while the eye is pressed, by pointer or key. @param {Editor} editor */
function holdOriginal(editor) {
  /** @type {HTMLButtonElement} */
  const button = byId("original");
  /** @param {boolean} held */
  const set = (held) => {
    editor.original = held;
    button.setAttribute("aria-pressed", String(held));
  };
  button.addEventListener("pointerdown", (event) => {
    button.setPointerCapture(event.pointerId);
    set(true);
  });
  for (const name of ["pointerup", "pointercancel", "blur"]) button.addEventListener(name, () => set(false));
  button.addEventListener("keydown", (event) => [" ", "Enter"].includes(event.key) && set(true));
  button.addEventListener("keyup", () => set(false));
}

/** Show the focus ring around the picture only for keys. @param {HTMLElement} host */
function ringForKeys(host) {
  host.addEventListener("pointerdown", () => host.classList.add("is-pointed"), true);
  for (const name of ["keydown", "blur"]) host.addEventListener(name, () => host.classList.remove("is-pointed"));
}

async function main() {
  translatePage();
  const keyring = new Keyring();
  const api = new Api(new URL(".", document.baseURI), keyring);
  const database = await Database.open();
  const workspace = await claimWorkspace(database);
  const editor = new Editor(byId("host"), displaying(api));
  const app = new App({ editor, api, keyring, database, workspace });
  connectButtons(app);
  await app.begin();
  document.body.dataset.ready = "true";
  installable();
}

main();
