"""Milliseconds of the page's tools on a picture of 24 megapixels, in Chromium.

    python -m bench.page_tools [--rounds N] [--json FILE]

``mark`` is from the call to the frame that shows the mask, ``task`` the page's longest task until then: wall
times of a browser without a GPU, longer on a busy machine. ``cpu`` is what the longest task took of the
processor, by Chromium's own trace of the page's main thread. The target of ``cpu`` is 50, as is that of the
wand's ``mark``.
"""

import argparse
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from bench.lib.contenders import conditions, finish
from tests.support.browser_session import ARGUMENTS, Visit
from tests.support.editor_fixtures import HarnessHandler
from tests.support.editor_page import EditorPage
from tests.support.http_server import serving
from tests.support.programs import need

WIDTH, HEIGHT = 6000, 4000

_TIMED = """{
    performance.mark("bench start");
    const start = performance.now();
    ACTION;
    await editor.settled();
    await h.frames(2);  // one draws it, the next begins when it has been drawn
    const mark = performance.now() - start;
    performance.mark("bench end");
    return mark;
}"""
_TRACED = ["toplevel", "blink.user_timing", "disabled-by-default-devtools.timeline"]

# What is done, after what was there before. The wand's first click, which reads the picture, is not timed.
ACTIONS = {
    "wand, a disc of 4 MP": ("editor.clear()", "click(3000, 2000, true)"),
    "wand, everywhere": ("editor.clear()", "click(3000, 2000, false)"),
    "wand, all of 24 MP": ("editor.clear(); editor.wand = {tolerance: 255}", "click(10, 10, true)"),
    "grow a disc of 4 MP": ("editor.clear(); click(3000, 2000, true)", "editor.grow(8)"),
    "invert": ("", "editor.invert()"),
    "mark everything": ("editor.clear()", "editor.fill()"),
    "clear": ("editor.fill()", "editor.clear()"),
    "shrink all of 24 MP": ("editor.clear(); editor.invert()", "editor.grow(-8)"),
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


def timed(editor: EditorPage, action: str) -> dict[str, float]:
    """Do something once, traced."""
    browser = editor.page.context.browser
    assert browser is not None
    browser.start_tracing(page=editor.page, categories=_TRACED)
    mark = editor.run(_TIMED.replace("ACTION", action))
    wall, cpu = longest(json.loads(browser.stop_tracing())["traceEvents"])
    return {"mark": mark, "task": wall, "cpu": cpu}


def longest(events: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the most that one task of the page's main thread took between the marks: wall, and processor."""
    marks = {event["name"]: event for event in events if event["name"] in ("bench start", "bench end")}
    start, end = marks["bench start"], marks["bench end"]
    tasks = [
        event
        for event in events
        if event["name"].endswith("RunTask")
        and "dur" in event  # not one that the trace's end cut off
        and (event["pid"], event["tid"]) == (start["pid"], start["tid"])
        and event["ts"] + event["dur"] >= start["ts"]
        and event["ts"] <= end["ts"]
    ]
    return max(task["dur"] for task in tasks) / 1000, max(task.get("tdur", 0) for task in tasks) / 1000


def measure(editor: EditorPage, rounds: int) -> dict[str, dict[str, float]]:
    """Time each action."""
    editor.open(picture(), "large.jpg")
    editor.run("{editor.tool = 'wand'}")
    editor.run(f"{{{_CLICK} click(5, 5, true); await editor.settled()}}")
    results = {}
    for name, (before, action) in ACTIONS.items():
        runs: list[dict[str, float]] = []
        for _ in range(rounds):
            editor.run(f"{{{_CLICK} editor.wand = {{tolerance: 32}}; {before}; await editor.settled()}}")
            editor.frame()
            runs.append(timed(editor, _CLICK + action))
        results[name] = {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}
        print(f"{name:24} {results[name]}")
    return results


def run(rounds: int) -> dict[str, Any]:
    """Measure in a browser of its own."""
    with serving(HarnessHandler) as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=need("Chromium"), args=ARGUMENTS)
        visit = Visit(browser.new_context(viewport={"width": 1280, "height": 800}))
        ms = measure(EditorPage(visit, f"http://127.0.0.1:{port}/"), rounds)
        browser.close()
    return conditions("page_tools", torch.device("cpu"), rounds=rounds, ms=ms)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write if asked to."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--rounds", type=int, default=5, help="timed rounds (default 5)")
    options.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    chosen = options.parse_args(arguments)
    finish(lambda: run(chosen.rounds), chosen.json)


if __name__ == "__main__":
    main()
