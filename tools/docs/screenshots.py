"""Screenshots of the page for the documentation: ``python -m tools.docs.screenshots``.

They show a real painting, by a real server with the demo model, in a real Chromium (``INPAINT_CHROMIUM``,
else Debian's): three pages as PNG, and README's moving picture, ``page.webp``.
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

OUT = Path(__file__).parents[2] / "docs" / "images"
CHROMIUM = os.environ.get("INPAINT_CHROMIUM", "/usr/bin/chromium")
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
MOVING = {"width": 1120, "height": 720}
LOOK_MS, STEP_MS, MOST_STEPS = 1800, 350, 8  # of the moving picture: a stage, a step of the painting
PAINTING_MS = 300_000
AROUND, ALIKE = 48, 6  # colours outside the photograph, and the difference up to which two count as one
# One thread: on a busy machine two wait for each other.
ENV = {"INPAINT_WARM_UP": "false", "OMP_NUM_THREADS": "1"}


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
        moving(opened(browser, url, viewport=MOVING, color_scheme="light"))
        browser.close()


@contextmanager
def served() -> Iterator[str]:
    """Run a server for the length of the block and yield its URL."""
    with tempfile.TemporaryDirectory() as folder:
        data, log = Path(folder, "data"), Path(folder, "log")  # not a pipe, which would fill up unread
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
    """Open the page with the example portrait, which comes with its eyes marked."""
    page = browser.new_context(**options).new_page()  # type: ignore[arg-type]
    page.set_default_timeout(PAINTING_MS)
    page.goto(url)
    page.wait_for_selector("[data-state=ready]")
    page.get_by_test_id("example").click()
    page.wait_for_selector("body.has-picture")
    page.wait_for_selector("#undo:enabled")
    return page


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Return the place in the window of a pixel of the 512-pixel portrait."""
    box = page.locator(".editor-picture").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"] / 512, box["y"] + y * box["height"] / 512


def paint(page: Page) -> None:
    """Paint four variations of the example's own prompt."""
    page.get_by_test_id("seed").fill("4")
    page.get_by_test_id("paint").click()
    page.get_by_test_id("result").nth(3).wait_for()
    page.mouse.move(0, 0)


def moving(page: Page) -> None:
    """Save the example from its mask to the kept result, as a moving picture."""
    frames = [(shot(page), LOOK_MS)]
    page.get_by_test_id("seed").fill("4")
    page.get_by_test_id("paint").click()
    results = page.get_by_test_id("result")
    while not results.count():
        page.wait_for_timeout(STEP_MS)
        frames.append((shot(page), STEP_MS))
    steps = frames[1 :: max(1, len(frames) // MOST_STEPS)]
    results.nth(3).wait_for()
    page.mouse.move(0, 0)
    frames = [frames[0], *steps, (shot(page), LOOK_MS)]
    compare(page)
    frames.append((shot(page), LOOK_MS))
    page.get_by_test_id("result-keep").click()
    page.wait_for_timeout(STEP_MS)
    frames.append((shot(page), LOOK_MS))
    first, *others = (image for image, _ in frames)
    path, times = OUT / "page.webp", [ms for _, ms in frames]
    first.save(path, save_all=True, append_images=others, duration=times, loop=0, quality=80, method=4)
    sys.stderr.write(f"{path}: {path.stat().st_size} bytes, {len(frames)} frames\n")


def shot(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")


def compare(page: Page) -> None:
    """Compare, with the divider through the disc, most of which stays in view."""
    page.get_by_test_id("compare").click()
    divider = page.locator(".editor-divider").bounding_box()
    assert divider is not None
    page.mouse.move(divider["x"] + divider["width"] / 2, divider["y"] + divider["height"] / 2)
    page.mouse.down()
    page.mouse.move(at(page, 170, 0)[0], divider["y"] + divider["height"] / 2, steps=4)
    page.mouse.up()
    page.mouse.move(0, 0)


def save(page: Page, name: str) -> None:
    """Save in 256 colours: a PNG in full colour would be several times as large."""
    picture = shot(page)
    box, viewport = page.locator(".editor-picture").bounding_box(), page.viewport_size
    assert box is not None
    assert viewport is not None
    ratio = picture.width / viewport["width"]
    left, top = round(ratio * box["x"]), round(ratio * box["y"])
    photo = (left, top, left + round(ratio * box["width"]), top + round(ratio * box["height"]))
    fewer_colours(picture, photo).save(OUT / name, optimize=True)
    sys.stderr.write(f"{OUT / name}: {(OUT / name).stat().st_size} bytes\n")


def fewer_colours(picture: Image.Image, photo: tuple[int, int, int, int]) -> Image.Image:
    """Reduce to 256 colours: most for the photograph, some for the page, whose accent would be lost."""
    around = picture.copy()
    around.paste(picture.getpixel((0, 0)), photo)  # type: ignore[arg-type]
    chosen: list[tuple[int, ...]] = []
    for _, colour in sorted(around.getcolors(around.width * around.height) or [], reverse=True):
        assert isinstance(colour, tuple)
        unlike = all(max(abs(a - b) for a, b in zip(colour, other, strict=True)) > ALIKE for other in chosen)
        if unlike and len(chosen) < AROUND:
            chosen.append(colour)
    flat = [value for colour in chosen for value in colour]
    rest = picture.crop(photo).quantize(256 - len(chosen)).getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette([*flat, *rest])
    return picture.quantize(palette=palette)


if __name__ == "__main__":
    main()
