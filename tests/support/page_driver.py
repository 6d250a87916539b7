"""The page under test, as a person has it before them; its fixtures: ``tests.support.page_fixtures``."""

import base64
import io
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.support.browser_session import PATIENCE_MS, Visit

Point = tuple[float, float]
PAINTING_MS = 120_000.0  # two shared cores may be busy with other tests
expect.set_options(timeout=PATIENCE_MS)

# Chromium tells nobody outside what a form with files in it held.
_RECORD = """
window.sentForms = [];
const send = window.fetch;
const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
const read = async (form) => {
  const fields = [];
  for (const [name, value] of form) {
    const blob = value instanceof Blob ? value : new Blob([value]);
    fields.push([name, base64(new Uint8Array(await blob.arrayBuffer()))]);
  }
  return fields;
};
window.fetch = (url, options) => {
  const paints = String(url).endsWith("/v2/sdxl-inpaint") && options?.body instanceof FormData;
  if (paints) window.sentForms.push(read(options.body));
  return send(url, options);
};
"""

_COUNT = "(count) => document.querySelectorAll('[data-testid=result]').length === count"

_TRANSFER = """
([base64, name, type]) => {
  const transfer = new DataTransfer();
  const bytes = Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
  transfer.items.add(new File([bytes], name, { type }));
  return transfer;
}
"""


def photo(size: tuple[int, int] = (128, 128)) -> Image.Image:
    """Every pixel differs from its neighbours, so that each one tells where it is."""
    width, height = size
    image = Image.new("RGB", size)
    image.putdata(
        [(40 + x % 160, 40 + y % 160, 90 + (x * y) % 64) for y in range(height) for x in range(width)]
    )
    return image


class Desk:
    """One page of one visit."""

    def __init__(self, visit: Visit, url: str, page: Page | None = None) -> None:
        self.visit, self.url = visit, url
        visit.context.add_init_script(_RECORD)
        self.page = page or visit.open(url)
        self.wait_ready()

    def sent(self) -> list[dict[str, bytes]]:
        """The fields of each painting that was asked for since the page was loaded."""
        forms = self.page.evaluate("() => Promise.all(window.sentForms)")
        return [{name: base64.b64decode(value) for name, value in form} for form in forms]

    def wait_ready(self) -> None:
        """Until everything is restored that there was."""
        self.page.wait_for_selector("body[data-ready]")

    def reload(self) -> None:
        self.page.reload()
        self.wait_ready()

    def get(self, testid: str) -> Locator:
        return self.page.get_by_test_id(testid)

    def click(self, testid: str) -> None:
        self.get(testid).click()

    def open(self, data: bytes, name: str = "photo.png") -> None:
        """Choose a file; what was there is replaced."""
        kind = f"image/{name.rpartition('.')[2].replace('jpg', 'jpeg')}"
        self.get("picture-picker").set_input_files({"name": name, "mimeType": kind, "buffer": data})
        expect(self.get("picture-name")).to_have_text(name)

    def at(self, x: float, y: float) -> Point:
        """Where the middle of the picture's pixel (x, y) is in the window."""
        return self._places((x, y))[0]

    def _places(self, *pixels: Point) -> list[Point]:
        """Where the middles of these pixels are in the window."""
        box = self._box()
        width, height = map(int, self.get("picture-size").inner_text().split(" × "))
        across, down = box["width"] / width, box["height"] / height
        return [(box["x"] + (x + 0.5) * across, box["y"] + (y + 0.5) * down) for x, y in pixels]

    def _box(self) -> FloatRect:
        """Where the picture is; Playwright says None while another one takes its place."""
        picture = self.page.locator(".editor-picture")
        for _ in range(20):
            expect(picture).to_be_visible()
            box = picture.bounding_box()
            if box is not None:
                return box
        raise AssertionError("the picture is not there for long enough to be found")

    def stroke(self, *points: Point, button: Any = "left") -> None:
        """Press on the first of these pixels, move over the others, lift."""
        mouse = self.page.mouse
        first, *others = self._places(*points)
        mouse.move(*first)
        mouse.down(button=button)
        for place in others:
            mouse.move(*place, steps=4)
        mouse.up(button=button)

    def quick(self, steps: int = 20, **fields: str) -> None:
        """One picture, in as few steps as the server takes."""
        self.page.select_option("#samples", "1")
        if self.get("advanced").get_attribute("open") is None:
            self.page.click("#advanced summary")
        self.get("field-scheduler").select_option("DDIM")
        for name, value in ({"num_inference_steps": str(steps)} | fields).items():
            self.get(f"field-{name}").fill(value)
            self.get(f"field-{name}").press("Tab")

    def paint(self, prompt: str = "a red circle") -> None:
        """Ask for it and press the button."""
        self.get("prompt").fill(prompt)
        self.click("paint")

    def drop(self, data: bytes, name: str, zone: str = "drop-picture") -> None:
        """Drag a file from outside over the window and let go of it over one of the zones."""
        kind = f"image/{name.rpartition('.')[2].replace('jpg', 'jpeg')}"
        transfer = self.page.evaluate_handle(_TRANSFER, [base64.b64encode(data).decode(), name, kind])
        self.page.dispatch_event("body", "dragenter", {"dataTransfer": transfer})
        expect(self.get(zone)).to_be_visible()
        self.get(zone).dispatch_event("drop", {"dataTransfer": transfer})
        expect(self.get(zone)).to_be_hidden()

    def pixel(self, x: float, y: float) -> tuple[int, int, int]:
        """The colour that is seen at the picture's pixel (x, y)."""
        left, top = self.at(x, y)
        shot = self.page.screenshot(clip={"x": round(left), "y": round(top), "width": 1, "height": 1})
        red, green, blue = opened(shot).convert("RGB").getpixel((0, 0))  # type: ignore[misc]
        return red, green, blue

    def sees(self, x: float, y: float, colour: object) -> bool:
        """Whether the picture's pixel (x, y) gets that colour; a page draws a moment after it says so."""
        end = time.monotonic() + PATIENCE_MS / 1000
        while self.pixel(x, y) != colour:
            if time.monotonic() > end:
                return False
        return True

    def results(self, count: int) -> Locator:
        """Wait until there are this many."""
        # expect() alone looks again after 0.1, 0.35, 0.85 s and then once a second; timers run in every tab.
        self.page.wait_for_function(_COUNT, arg=count, polling=30, timeout=PAINTING_MS)
        expect(self.get("result")).to_have_count(count)
        return self.get("result")

    def downloaded(self) -> tuple[str, bytes]:
        """Name and bytes of what the Download button gives."""
        with self.page.expect_download() as download:
            self.click("download")
        path = download.value.path()
        return download.value.suggested_filename, Path(path).read_bytes()

    def wait_saved(self) -> None:
        """Until the draft, as it is now, would survive a reload."""
        self.page.wait_for_selector("body[data-draft=saved]")


def opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image
