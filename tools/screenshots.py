"""Pictures of the page for the documentation: ``python -m tools.screenshots``.

A real server with the demo model, a real Chromium (``INPAINT_CHROMIUM``, else Debian's), a real painting.
"""

import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

OUT = Path(__file__).parents[1] / "docs" / "images"
CHROMIUM = os.environ.get("INPAINT_CHROMIUM", "/usr/bin/chromium")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
MISSION_PATCH = [(150, 385), (200, 385), (205, 410), (150, 415), (155, 400), (195, 400)]  # px of the portrait
PAINTING_MS = 300_000
ENV = {
    "INPAINT_WARM_UP": "false",
    "OMP_NUM_THREADS": "1",
}  # threads that wait for each other, on a busy machine


def main() -> None:
    with served() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for name, scheme in (("page-light.png", "light"), ("page-dark.png", "dark")):
            page = opened(browser, url, viewport=DESKTOP, color_scheme=scheme)
            paint(page)
            if scheme == "light":
                compare(page)
            else:
                page.click("#advanced summary")
            save(page, name)
        phone = {"viewport": PHONE, "device_scale_factor": 2, "has_touch": True, "is_mobile": True}
        page = opened(browser, url, color_scheme="light", **phone)
        paint(page)
        page.evaluate("() => scrollTo(0, 0)")
        save(page, "page-phone.png")
        browser.close()


@contextmanager
def served() -> Iterator[str]:
    """The URL of a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "data"), Path(folder, "log")  # not a pipe: nobody would read on
        command = [sys.executable, "-m", "inpaint", "serve", "--port", "0", "--data", str(data)]
        with log.open("w") as file:
            process = subprocess.Popen(command, stderr=file, env=os.environ | ENV)
        try:
            while not log.read_text().startswith("http"):
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            yield log.read_text().split()[0]
        finally:
            process.terminate()
            process.wait()


def opened(browser: Browser, url: str, **options: object) -> Page:
    """The example portrait, its mission patch marked."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(PAINTING_MS)
    page.goto(url)
    page.wait_for_selector("[data-state=ready]")
    page.get_by_test_id("example").click()
    page.wait_for_selector("body.has-picture")
    points = [at(page, *point) for point in MISSION_PATCH]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=6)
    page.mouse.up()
    return page


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where a pixel of the 512-pixel portrait is in the window."""
    box = page.locator(".editor-picture").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"] / 512, box["y"] + y * box["height"] / 512


def paint(page: Page) -> None:
    page.get_by_test_id("prompt").fill("a blue heart")
    page.get_by_test_id("seed").fill("4")
    page.get_by_test_id("paint").click()
    page.get_by_test_id("result").nth(3).wait_for()
    page.mouse.move(0, 0)


def compare(page: Page) -> None:
    """The divider through the heart, most of which stays in view."""
    page.get_by_test_id("compare").click()
    divider = page.locator(".editor-divider").bounding_box()
    assert divider is not None
    page.mouse.move(divider["x"] + divider["width"] / 2, divider["y"] + divider["height"] / 2)
    page.mouse.down()
    page.mouse.move(at(page, 170, 0)[0], divider["y"] + divider["height"] / 2, steps=4)
    page.mouse.up()


def save(page: Page, name: str) -> None:
    """256 colours: a photograph's PNG would be several times as large.

    Half of them are the commonest beside the photograph, or the accent would go under in its colours.
    """
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    beside = shot.copy()
    box, ratio = page.locator(".editor-picture").bounding_box(), shot.width / page.viewport_size["width"]  # type: ignore[index]
    assert box is not None
    corner = [
        round(ratio * v) for v in (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])
    ]
    beside.paste("white", (*corner[:2], *corner[2:]))  # type: ignore[arg-type]
    common = sorted(beside.getcolors(beside.width * beside.height), reverse=True)[:128]  # type: ignore[type-var]
    few = shot.quantize(256 - len(common), dither=Image.Dither.NONE).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*(value for _, colour in common for value in colour), *few][:768])  # type: ignore[union-attr]
    shot.quantize(palette=palette, dither=Image.Dither.NONE).save(OUT / name, optimize=True)
    sys.stderr.write(f"{OUT / name}: {(OUT / name).stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
