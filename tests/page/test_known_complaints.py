"""Complaints about pages to paint masks on, and that they are not so here: see ``test_complaints.py``."""

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import expect

from tests.support.browser_session import Visit, Visiting
from tests.support.editor_page import EditorPage, grey_picture
from tests.support.page_driver import Desk, photo
from tests.support.served import FakeEngine, Served, file_of

pytest_plugins = [
    "tests.support.browser",
    "tests.support.served_fixtures",
    "tests.support.page_fixtures",
    "tests.support.editor_fixtures",
]
SIDE = 128


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def masks(served: Served) -> list[NDArray[np.uint8]]:
    """(h, w) of each request that has reached the engine."""
    return [np.asarray(request.mask.convert("L")) for request in engine_of(served).requests]


def one_picture(desk: Desk) -> None:
    desk.quick()
    desk.paint()
    desk.results(1)


@pytest.mark.slow
@pytest.mark.gate
def test_complaint_05_what_was_marked_is_what_is_painted(fake: Served, desk: Desk) -> None:
    """The mask that the page shows is the one that the engine gets, and nothing else is painted."""
    desk.stroke((20, 30), (100, 30))
    one_picture(desk)
    (mask,) = masks(fake)
    assert mask[30, 20:101].min() == 255
    assert mask[70:].max() == 0
    painted = desk.pixel(60, 30)
    assert desk.sees(60, 100, photo().getpixel((60, 100)))
    assert painted != photo().getpixel((60, 30))


@pytest.mark.slow
def test_complaint_06_two_pages_never_mix_their_masks(fake: Served, visiting: Visiting) -> None:
    """Two people on one server, at the same time: each paints, and sees, their own."""
    engine = engine_of(fake)
    engine.held = True
    desks = []
    for n in range(2):
        desk = Desk(visiting(), fake.url)
        desk.open(file_of(photo()), f"{n}.png")
        desk.stroke((20, 20 + 80 * n), (100, 20 + 80 * n))
        desk.quick()
        desk.get("seed").fill(str(10 + n))
        desk.paint(f"picture {n}")
        desks.append(desk)
    tickets = [engine.next(), engine.next()]
    for ticket in reversed(tickets):  # the later one is done first
        fake.do(engine.paint, ticket)
    for n, desk in enumerate(desks):
        desk.results(1)
        rows = np.flatnonzero(masks(fake)[n].any(1))
        assert rows.max() < SIDE // 2 if n == 0 else rows.min() >= SIDE // 2
        assert engine.requests[n].prompt == f"picture {n}"
        assert desk.pixel(60, 20 + 80 * n) != photo().getpixel((60, 20 + 80 * n))
        assert desk.sees(60, 100 - 80 * n, photo().getpixel((60, 100 - 80 * n)))


@pytest.mark.slow
def test_complaint_10_the_page_uses_no_host_but_its_server(fake: Served, visit: Visit) -> None:
    """No web font, no script from elsewhere, no hub: from the empty window to the result."""
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    desk.stroke((50, 64), (78, 64))
    one_picture(desk)
    assert len([url for url in visit.requests if url.startswith(fake.url)]) > 10
    assert visit.elsewhere() == []


@pytest.mark.slow
def test_complaint_12_every_tool_is_there(fake: Served, desk: Desk) -> None:
    """Eraser, lasso, clear, invert, undo, a mask from a file; picking by a click is not, as README says."""

    def sent() -> NDArray[np.uint8]:
        count = len(masks(fake))
        desk.paint()
        expect(desk.get("paint")).to_be_enabled()
        desk.results(count + 1)
        return masks(fake)[-1]

    desk.quick()
    desk.click("tool-lasso")
    desk.stroke((20, 20), (100, 20), (100, 100), (20, 100))
    desk.click("tool-eraser")
    desk.stroke((60, 60), (62, 60))
    mask = sent()
    assert (mask[30, 30], mask[60, 61], mask[110, 110]) == (255, 0, 0)
    desk.click("tool-invert")
    assert np.array_equal(sent(), 255 - mask)
    desk.click("undo")
    assert np.array_equal(sent(), mask)
    desk.click("tool-clear")
    own = np.zeros((SIDE, SIDE), np.uint8)
    own[5:50, 70:90] = 255
    desk.get("mask-picker").set_input_files(
        {"name": "mask.png", "mimeType": "image/png", "buffer": file_of(Image.fromarray(own))}
    )
    assert np.array_equal(sent(), own)


@pytest.mark.slow
def test_complaint_13_the_brush_is_quick_exact_and_does_not_stop(visiting: Visiting, editor_url: str) -> None:
    """At a zoom of 150 %, on 2048²: across the edge and back, under the pointer, within a second."""
    size = {"width": 853, "height": 533}
    editor = EditorPage(visiting(viewport=size, device_scale_factor=1.5), editor_url)
    editor.open(grey_picture(2048, 2048))
    editor.run("{editor.brush = {size: 40, hardness: 1}}")
    inside, outside, back = (
        editor.at(*point) for point in ((1000.5, 300.5), (1000.5, -400), (1400.5, 300.5))
    )
    took_ms = editor.run(
        """{
        const host = document.getElementById("host");
        const at = (x, y, type, buttons) => host.dispatchEvent(new PointerEvent(type, {
            pointerId: 1, pointerType: "mouse", button: 0, buttons, clientX: x, clientY: y, bubbles: true,
        }));
        const [from, over, to] = a;
        const between = (p, q, k) => [p[0] + (q[0] - p[0]) * k / 20, p[1] + (q[1] - p[1]) * k / 20];
        const start = performance.now();
        at(...from, "pointerdown", 1);
        for (const [p, q] of [[from, over], [over, to]]) {
            for (let k = 1; k <= 20; k++) {
                at(...between(p, q, k), "pointermove", 1);
                await scheduler.postTask(() => {});
            }
        }
        at(...to, "pointerup", 0);
        await h.frames(2);
        return performance.now() - start;
    }""",
        [inside, outside, back],
    )
    mask = editor.mask()
    assert took_ms <= 1000
    for x, y in ((1000, 300), (1000, 100), (1000, 0), (1400, 300)):
        assert mask[y, x] == 255, (x, y)
    assert mask[300, 1200] == 0, "between, the pointer was above the edge"
    assert mask[400:].max() == 0
