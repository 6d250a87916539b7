"""Seconds from the last step to pictures that are seen on the page, for a small and for a large picture.

    python -m bench.page_patches [--rounds N] [--side PX] [--device cpu] [--json FILE]

Chromium and a server of its own process with the demo model: four variations of a small mask in a picture of
512 × 512 and in one of 24 megapixels, in turn. ``seen_s`` is from the frame in which the page has the last
step to the one that shows four thumbnails and the first result; ``cpu_s`` what the server and its worker took
of the processor from there until they are idle, the VAE's part included; ``patch_bytes`` what one
variation's picture weighs.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, Response, sync_playwright

from bench.lib.contenders import conditions, finish, parser
from inpaint.model.load import pick_device
from tests.support.browser_session import ARGUMENTS, Visit
from tests.support.page_driver import PAINTING_MS, Desk
from tests.support.programs import need
from tests.support.server_process import ServerProcess

SMALL, LARGE = "512", "24 MP"
SIZES: Mapping[str, tuple[int, int]] = {SMALL: (512, 512), LARGE: (6000, 4000)}
VARIATIONS = 4
_MASK = 64  # pixels, the brush's size and the length of the stroke
_IDLE_S = 1.0
_TICK = os.sysconf("SC_CLK_TCK")

_LAST_STEP = "() => document.title.startsWith('100 %') && performance.now()"
_SEEN = """(count) => {
    const images = [...document.querySelectorAll("[data-testid=result] img")];
    const shown = images.length === count && images.every((image) => image.complete);
    return shown && document.querySelector(".editor-result")?.width > 0 && performance.now();
}"""


def picture(size: tuple[int, int]) -> bytes:
    """Return a JPEG of noise on a slope."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    grey = (60 + x * 90 // width + y * 40 // height).astype(np.int16)
    grey += np.random.default_rng(0).integers(-6, 7, grey.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(grey.astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def family(pid: int) -> Iterator[int]:
    """Yield a process and all that it started, and they."""
    yield pid
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            yield from family(int(child))


def cpu_s(pid: int) -> float:
    """Return the seconds of the processor that a process and its children have taken so far."""
    # user and system time, after the name in brackets, which may hold spaces
    stats = (Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in family(pid))
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICK


def idle_cpu_s(pid: int) -> float:
    """Return the same once they have nothing left to do."""
    while True:
        before = cpu_s(pid)
        time.sleep(_IDLE_S)
        if cpu_s(pid) - before <= 0.02 * _IDLE_S:
            return before


@contextmanager
def desk_on(browser: Browser, url: str, file: bytes, size: tuple[int, int]) -> Iterator[Desk]:
    """Yield the page of a new visitor, the picture open and a small mask in its middle."""
    visit = Visit(browser.new_context(viewport={"width": 1280, "height": 800}))
    desk = Desk(visit, url)
    desk.open(file, "picture.jpg")
    desk.quick(steps=10)
    desk.get("samples").select_option(str(VARIATIONS))
    desk.get("drafts").set_checked(False)
    desk.get("brush-size").fill(str(_MASK))
    x, y = size[0] // 2, size[1] // 2
    desk.stroke((x, y), (x + _MASK, y))
    yield desk
    visit.context.close()


def once(browser: Browser, server: ServerProcess, file: bytes, size: tuple[int, int]) -> dict[str, float]:
    """Paint once, in a page and a browser's storage of its own."""
    with desk_on(browser, server.url, file, size) as desk:
        page = desk.page
        fetched: list[Response] = []
        page.on("response", lambda answer: fetched.append(answer) if "crop=box" in answer.url else None)
        desk.paint()
        last = page.wait_for_function(_LAST_STEP, polling=5, timeout=PAINTING_MS).json_value()
        begun = cpu_s(server.pid)
        seen = page.wait_for_function(_SEEN, arg=VARIATIONS, polling=5, timeout=PAINTING_MS).json_value()
        patches = [int(answer.header_value("content-length") or 0) for answer in fetched]
        return {
            "seen_s": (seen - last) / 1000,
            "cpu_s": idle_cpu_s(server.pid) - begun,
            "patch_bytes": statistics.mean(patches),
        }


def measure(rounds: int, side: int | None, device: str) -> dict[str, Any]:
    """Paint both in turn, after a round that is not counted."""
    sizes = {**SIZES, **({LARGE: (side, side)} if side else {})}
    files = {name: picture(size) for name, size in sizes.items()}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in sizes}
    with TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("Chromium"), args=ARGUMENTS)
        command = [
            "-m",
            "inpaint",
            "serve",
            "--port",
            "0",
            "--data",
            folder,
            "--model",
            "demo",
            "--device",
            "cpu",
        ]
        with ServerProcess(command, python=sys.executable) as server:
            for k in range(rounds + 1):
                for name in list(sizes)[:: 1 if k % 2 else -1]:
                    run = once(browser, server, files[name], sizes[name])
                    print(f"  {'warm-up' if k == 0 else f'round {k}'}, {name}: {run}", flush=True)
                    if k > 0:
                        runs[name].append(run)
        browser.close()
    return conditions(
        "page_patches", pick_device(device), rounds=rounds, variations=VARIATIONS, **summary(runs)
    )


def summary(runs: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Return the medians with their ranges, and the ratio of the large picture's to the small one's."""
    figures = {
        name: {
            key: {
                "median": round(statistics.median(run[key] for run in own), 3),
                "min": round(min(run[key] for run in own), 3),
                "max": round(max(run[key] for run in own), 3),
            }
            for key in own[0]
        }
        for name, own in runs.items()
    }
    over = {
        key: round(figures[LARGE][key]["median"] / figures[SMALL][key]["median"], 2)
        for key in ("seen_s", "cpu_s")
    }
    return {"figures": figures, "over": over}


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser(__doc__, model=False)
    options.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    options.add_argument("--side", type=int, metavar="PX", help="of the large picture (default 6000 × 4000)")
    chosen = options.parse_args(arguments)
    finish(lambda: measure(chosen.rounds, chosen.side, chosen.device), chosen.json)


if __name__ == "__main__":
    main()
