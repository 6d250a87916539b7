"""Milliseconds of the page's tools on a picture of 24 megapixels, in Chromium.

    python -m bench.page_tools [--rounds N] [--json FILE]

``done`` is from the call to its end, ``task`` the page's own longest task until it is drawn: wall times of a
browser without a GPU, longer on a busy machine. ``cpu`` is what all its tasks took of the processor.
"""

import argparse
import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import sync_playwright

from tests.support.browser_session import ARGUMENTS, Visit
from tests.support.editor_fixtures import HarnessHandler
from tests.support.editor_page import EditorPage
from tests.support.http_server import serving
from tests.support.programs import need

WIDTH, HEIGHT = 6000, 4000

_TIMED = """{
    const tasks = [];
    const observer = new PerformanceObserver((list) => {
        for (const entry of list.getEntries()) tasks.push(entry.duration);
    });
    observer.observe({entryTypes: ["longtask"]});
    const start = performance.now();
    ACTION;
    await editor.settled();
    const done = performance.now() - start;
    await h.frames(3);
    await new Promise((resolve) => setTimeout(resolve, 50));
    observer.disconnect();
    return {done, task: Math.max(0, ...tasks)};
}"""

# What is done, after what was there before. The wand's first click, which reads the picture, is not timed.
ACTIONS = {
    "wand, a disc of 4 MP": ("editor.clear()", "click(3000, 2000, true)"),
    "wand, everywhere": ("editor.clear()", "click(3000, 2000, false)"),
    "wand, all of 24 MP": ("editor.clear(); editor.wand = {tolerance: 255}", "click(10, 10, true)"),
    "grow a disc of 4 MP": ("editor.clear(); click(3000, 2000, true)", "editor.grow(8)"),
    "invert": ("", "editor.invert()"),
    "shrink all of 24 MP": ("", "editor.grow(-8)"),
}
_CLICK = """const click = (x, y, contiguous) => {
        editor.wand = {contiguous, ...(editor.wand.tolerance === 255 ? {} : {tolerance: 32})};
        editor.wandAt(x, y);
    };"""


def picture() -> bytes:
    """Return a photograph's substitute: noise on a slope, and a brighter disc in its middle."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    grey = (x * 90 // WIDTH + y * 40 // HEIGHT).astype(np.int16)
    grey[(x - 3000) ** 2 + (y - 2000) ** 2 < 1130**2] = 205
    grey += np.random.default_rng(0).integers(-6, 7, grey.shape, dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(grey.clip(0, 255).astype(np.uint8)).convert("RGB").save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(editor: EditorPage, rounds: int) -> dict[str, dict[str, float]]:
    """Time each action."""
    editor.open(picture(), "large.jpg")
    editor.run("{editor.tool = 'wand'}")
    editor.run(f"{{{_CLICK} click(5, 5, true); await editor.settled()}}")
    session = editor.page.context.new_cdp_session(editor.page)
    session.send("Performance.setTimeDomain", {"timeDomain": "threadTicks"})
    session.send("Performance.enable")

    def cpu_ms() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return 1000 * next(one["value"] for one in metrics if one["name"] == "TaskDuration")

    results = {}
    for name, (before, action) in ACTIONS.items():
        runs: list[dict[str, float]] = []
        for _ in range(rounds):
            editor.run(f"{{{_CLICK} editor.wand = {{tolerance: 32}}; {before}; await editor.settled()}}")
            editor.frame()
            start = cpu_ms()
            timed = editor.run(_TIMED.replace("ACTION", _CLICK + action))
            runs.append(timed | {"cpu": cpu_ms() - start})
        results[name] = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
        print(f"{name:24} {results[name]}")
    return results


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    reader.add_argument("--rounds", type=int, default=5)
    reader.add_argument("--json", type=Path)
    given = reader.parse_args(arguments)
    with serving(HarnessHandler) as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("Chromium"), args=ARGUMENTS)
        visit = Visit(browser.new_context(viewport={"width": 1280, "height": 800}))
        editor = EditorPage(visit, f"http://127.0.0.1:{port}/")
        results: dict[str, Any] = measure(editor, given.rounds)
        browser.close()
    if given.json:
        given.json.write_text(json.dumps({"bench": "page_tools", "ms": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
