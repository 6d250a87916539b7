"""The serving bench: what counts as served in time, how the highest rate is found, and that it runs."""

import asyncio
import contextlib
import json
import math
import socket
import statistics
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from fastapi import FastAPI, Response
from PIL import Image, ImageOps

from bench import serving
from bench.lib.attainment import Bench, Plan
from bench.lib.search import HIGHEST, LOWEST, Search, allowed_misses
from bench.lib.servers import LOCK, OURS, environments, served
from bench.lib.traffic import GAVE_UP, MIX, PATH, Kind, Outcome, Shot, client, mask_of, play, post, trace
from bench.lock_baseline import Body, create_app, opened, png
from inpaint.canvas.sizes import best_size
from server.settings import Settings

QUICK = MIX[0]
NATIVE = 128
SECONDS = 60.0  # nothing that works waits so long


# What is sent.


def test_a_rate_only_stretches_a_trace() -> None:
    """Rates are compared on the same requests in the same order, and contenders too."""
    slow, fast = trace(1.0, 3, 200), trace(4.0, 3, 200)
    assert [shot.kind for shot in slow] == [shot.kind for shot in fast]
    assert [shot.at_s for shot in slow] == pytest.approx([4 * shot.at_s for shot in fast])
    assert trace(1.0, 4, 200) != slow


def test_a_trace_is_a_poisson_stream_of_the_mix() -> None:
    """A rate in the report is the rate that was sent, in bursts as callers come."""
    shots = trace(5.0, 0, 4000)
    gaps = np.diff([shot.at_s for shot in shots])
    assert statistics.mean(gaps) == pytest.approx(0.2, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(0.2, rel=0.08)  # as long as their mean: exponential
    for kind in MIX:
        assert sum(shot.kind is kind for shot in shots) / 4000 == pytest.approx(kind.share, abs=0.03)


@pytest.mark.parametrize("native", [128, 1024])
@pytest.mark.parametrize("kind", MIX, ids=lambda kind: kind.name)
def test_both_contenders_paint_a_kind_at_the_size_it_is_sent(kind: Kind, native: int) -> None:
    """Stock paints a picture's own size; if ours resized it, they would not have the same work."""
    size = kind.size(native)
    assert best_size(*size, native) == size
    assert all(side % 8 == 0 for side in mask_of(size).getbbox() or (1,))


def test_the_mix_is_mixed() -> None:
    """One size, one length or one scheduler would say little of a server for all of them."""
    assert sum(kind.share for kind in MIX) == pytest.approx(1)
    assert len({kind.size(NATIVE) for kind in MIX}) == 3
    assert len({kind.num_inference_steps for kind in MIX}) >= 4
    assert {kind.guidance_scale > 1 for kind in MIX} == {True, False}


def test_no_cache_helps_anybody() -> None:
    """A server that remembers prompts or uploads must not win by it: the callers are strangers."""
    bodies = [json.loads(QUICK.body(NATIVE, serial)) for serial in (0, 1, NATIVE, NATIVE + 1)]
    for field in ("image", "prompt", "seed"):
        assert len({body[field] for body in bodies}) == len(bodies)
    assert len({body["mask"] for body in bodies}) == 1


# What is good.


def outcome(status: int = 200, seconds: float = 1.0, *, valid: bool = True) -> Outcome:
    return Outcome(QUICK, status, seconds, 0.0, valid)


def test_only_a_valid_picture_in_time_is_good() -> None:
    """A refusal, a late picture and a broken one all are misses."""
    limits = {QUICK.name: 2.0}
    assert outcome(seconds=2.0).good(limits)
    assert not outcome(seconds=2.001).good(limits)
    assert not outcome(503, valid=False).good(limits)
    assert not outcome(valid=False).good(limits)


@pytest.mark.parametrize(
    ("sent", "share", "allowed"), [(300, 0.99, 3), (100, 0.99, 1), (99, 0.99, 0), (299, 0.99, 2), (8, 0.5, 4)]
)
def test_how_many_misses_are_allowed(sent: int, share: float, allowed: int) -> None:
    """99 % of 300 is 297; rounding of floats must not make it 298."""
    assert allowed_misses(sent, share) == allowed


# How the highest rate is found.


@pytest.mark.parametrize("start", [0, 5, -7])
def test_the_search_finds_every_highest_notch(start: int) -> None:
    """The figure depends on the server, not on where the search began."""
    for highest in range(LOWEST - 1, HIGHEST + 1):
        search, asked = Search(start), []
        while (notch := search.next_notch()) is not None:
            assert LOWEST <= notch <= HIGHEST
            asked.append(notch)
            search.record(notch, passes=notch <= highest)
        assert search.passed == (highest if highest >= LOWEST else None)
        assert len(asked) == len(set(asked)) <= 12


def bench(plan: Plan | None = None, end: float = math.inf) -> Bench:
    """No server: only what is put into its runs can be asked for."""
    found = Bench(
        plan or Plan(requests=4, seeds=3, rounds=1, step=1.1, budget_s=1.0, share=0.75), {}, NATIVE, end
    )
    found.kinds = (QUICK,)
    found.alone = {LOCK: {QUICK.name: 1.0}, OURS: {QUICK.name: 0.5}}
    return found


def test_each_yardstick_is_five_times_somebodys_seconds_alone() -> None:
    """The fast server is held to the slow one's seconds and to its own; both are reported."""
    both = bench()
    assert both.limits(OURS, LOCK) == both.limits(LOCK, LOCK) == both.limits(LOCK, "own") == {QUICK.name: 5.0}
    assert both.limits(OURS, "own") == {QUICK.name: 2.5}
    both.runs = {(OURS, 1.0, seed): [outcome(seconds=4.0)] * 4 for seed in range(3)}
    assert asyncio.run(both.passes(OURS, 1.0, LOCK)) is True
    assert asyncio.run(both.passes(OURS, 1.0, "own")) is False
    assert both.point(OURS, 1.0)["attainment"] == {LOCK: 1.0, "own": 0.0}


def test_misses_count_over_all_seeds_and_a_lost_rate_is_left_early() -> None:
    """Three misses of twelve may be anywhere; after the fourth, no more time goes into that rate."""
    lost, fine = outcome(503, math.inf, valid=False), outcome()
    both = bench()
    both.runs = {
        (OURS, 1.0, 0): [lost, lost, lost, fine],
        (OURS, 1.0, 1): [fine] * 4,
        (OURS, 1.0, 2): [fine] * 4,
        (OURS, 2.0, 0): [lost] * 4,  # and no other seed: running one would fail, there is no server
    }
    assert asyncio.run(both.passes(OURS, 1.0, LOCK)) is True
    assert asyncio.run(both.passes(OURS, 2.0, LOCK)) is False
    point = both.point(OURS, 2.0)
    assert (point["attainment"][LOCK], point["answers"], point["seconds"]) == (0.0, {"503": 4}, {})


def test_no_run_begins_that_would_end_too_late() -> None:
    """``--budget-s`` is kept; the report then says that the search is not complete."""
    assert asyncio.run(bench(end=0.0).passes(OURS, 1.0, LOCK)) is None


def test_goodput_past_the_highest_rate_is_reported() -> None:
    """The second question of the bench: does it collapse when it is asked for too much?"""
    both = bench()
    both.runs = {
        (OURS, 0.5 * f, 0): [outcome()] * 3 + [outcome(503, math.inf, valid=False)] for f in (1.0, 1.5)
    }
    searches = {
        contender: {y: Search(passed=None, failed=LOWEST) for y in (LOCK, "own")}
        for contender in (LOCK, OURS)
    }
    searches[OURS][LOCK] = Search(passed=0, failed=1)
    figures = serving.report(both, searches, {QUICK.name: {"mean": 0.0, "max": 0}})
    assert figures["goodput_past_highest"] == {LOCK: {}, OURS: {"1.0": 0.375, "1.5": 0.562}}
    assert figures["ours_over_lock"] == {LOCK: None, "own": None}
    assert figures["search_complete"] is True


# Sending, and the lock.


@contextlib.contextmanager
def listening(app: FastAPI) -> Iterator[str]:
    """A real server on loopback, in a thread; ended with the block."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(SECONDS)


def own_picture(body: Body, image: Image.Image, mask: Image.Image) -> Image.Image:
    """Painted immediately."""
    return image


def played(app: FastAPI, shots: list[Shot], end_s: float = SECONDS) -> list[Outcome]:
    """A trace on a server of its own."""
    with listening(app) as url:
        return asyncio.run(play(url, shots, NATIVE, iter(range(1000)), end_s))


def test_answers_come_back_with_their_request() -> None:
    """Kinds have limits of their own; a mix-up would grade one by another's."""
    shots = [Shot(kind, 0.0) for kind in MIX]
    outcomes = played(create_app(own_picture), shots)
    assert [found.kind for found in outcomes] == list(MIX)
    assert all(found.status == 200 and found.valid and found.seconds < SECONDS for found in outcomes)


def test_seconds_count_from_when_a_request_was_due() -> None:
    """A client that is late itself must not make the server look fast (coordinated omission)."""
    (found,) = played(create_app(own_picture), [Shot(QUICK, -3.0)], end_s=SECONDS)
    assert found.late_s >= 2.9
    assert found.seconds >= found.late_s


@pytest.mark.parametrize(
    "painted",
    [
        pytest.param(lambda image: Image.new("RGB", image.size, "teal"), id="one colour"),
        pytest.param(lambda image: image.resize((64, 64)), id="another size"),
    ],
)
def test_an_answer_that_is_no_painting_is_not_valid(painted: Callable[[Image.Image], Image.Image]) -> None:
    """A server that answers quickly with something else serves no client."""
    (found,) = played(create_app(lambda body, image, mask: painted(image)), [Shot(QUICK, 0.0)])
    assert (found.status, found.valid) == (200, False)


def test_a_refusal_is_an_outcome() -> None:
    """A request that admission refuses is counted, not dropped."""
    app = FastAPI()

    @app.post(PATH)
    def refuse() -> Response:
        return Response(png(Image.radial_gradient("L").resize((NATIVE, NATIVE))), status_code=503)

    (found,) = played(app, [Shot(QUICK, 0.0)])
    assert (found.status, found.valid) == (503, False)


def test_contenders_that_paint_different_things_are_not_compared() -> None:
    """Another seed, scheduler or size is other work; only lossy modes may differ, with ``--may-differ``."""
    apps = {LOCK: create_app(own_picture), OURS: create_app(lambda body, image, mask: ImageOps.invert(image))}
    both = bench()
    with listening(apps[LOCK]) as lock, listening(apps[OURS]) as ours:
        both.urls = {LOCK: lock, OURS: lock}
        assert asyncio.run(both.same_pictures(may_differ=False)) == {QUICK.name: {"mean": 0.0, "max": 0}}
        both.urls = {LOCK: lock, OURS: ours}
        assert asyncio.run(both.same_pictures(may_differ=True))[QUICK.name]["mean"] > 20
        with pytest.raises(SystemExit, match="different pictures"):
            asyncio.run(both.same_pictures(may_differ=False))


@pytest.mark.slow
def test_rates_that_were_asked_for_are_run_and_nothing_is_searched() -> None:
    """An operator who knows their rate measures that one, and a slow machine has no hour for more."""
    plan = Plan(requests=3, seeds=2, rounds=1, step=1.1, budget_s=SECONDS)
    with listening(create_app(own_picture)) as url:
        urls = dict.fromkeys((LOCK, OURS), url)
        measured = serving.measure(plan, urls, NATIVE, [QUICK], at=[20.0, 10.0], may_differ=False)
        figures = asyncio.run(measured)
    found = [(point["contender"], point["rate"], point["sent"]) for point in figures["curve"]]
    assert found == [(LOCK, 10.0, 6), (LOCK, 20.0, 6), (OURS, 10.0, 6), (OURS, 20.0, 6)]
    assert figures["ours_over_lock"] == {LOCK: None, "own": None}
    assert figures["search_complete"] is False


def test_a_run_is_over_when_the_server_has_nothing_left_of_it() -> None:
    """The next run must not pay for what this one left; a server that refuses is not yet done."""
    asked: list[int] = []
    app = FastAPI()

    @app.post(PATH)
    def answer() -> Response:
        asked.append(1)
        return Response(status_code=200 if len(asked) > 6 else 503)

    both = bench()
    with listening(app) as url:
        both.urls = {OURS: url}
        outcomes = asyncio.run(both.run(OURS, 1000.0, 0))
        assert asyncio.run(both.run(OURS, 1000.0, 0)) is outcomes  # and never run twice
    assert len(asked) == 7  # four of the trace, two refused, one painted


def test_the_lock_paints_one_at_a_time_in_the_order_of_asking() -> None:
    """The baseline paints one at a time; if it painted two, the ratio would mean nothing."""
    inside: list[int] = []
    order: list[int] = []
    overlap = threading.Event()

    def paint(body: Body, image: Image.Image, mask: Image.Image) -> Image.Image:
        order.append(body.seed)
        inside.append(body.seed)
        if len(inside) > 1:
            overlap.set()
        overlap.wait(0.1)  # time for another to come in; none should
        inside.remove(body.seed)
        return image

    played(create_app(paint), [Shot(QUICK, 0.03 * i) for i in range(6)])
    assert not overlap.is_set()
    assert order == sorted(order)


def test_whoever_hangs_up_is_not_painted_by_the_lock() -> None:
    """At the end of a trace all callers go; without this the next run would wait for their pictures."""
    begun, gate, painted = threading.Event(), threading.Event(), []

    def paint(body: Body, image: Image.Image, mask: Image.Image) -> Image.Image:
        begun.set()
        assert gate.wait(SECONDS)
        painted.append(body.seed)
        return image

    async def scenario(url: str) -> tuple[list[Outcome], int]:
        outcomes = await play(url, [Shot(QUICK, 0.0)] * 4, NATIVE, iter(range(4)), 0.3)
        gate.set()
        async with client(url) as http:
            response = await post(http, QUICK.body(NATIVE, 99))
        return outcomes, response.status_code

    with listening(create_app(paint)) as url:
        outcomes, status = asyncio.run(scenario(url))
    assert begun.is_set()
    assert {found.status for found in outcomes} == {GAVE_UP}
    assert all(found.seconds == math.inf and not found.valid for found in outcomes)
    assert status == 200
    assert len(painted) == 2  # the one that was under way, and the one that came after
    assert painted[-1] == 99


def test_the_baseline_reads_what_the_server_reads() -> None:
    """One wire for both contenders."""
    body = Body.model_validate_json(MIX[2].body(NATIVE, 5))
    image, mask = opened(body)
    assert image.size == mask.size == MIX[2].size(NATIVE)
    assert (body.scheduler, body.num_inference_steps, body.seed) == ("Euler a", 30, 5)
    assert mask.getbbox() == mask_of(image.size).getbbox()


# The processes.


def test_admission_is_set_where_the_server_has_it() -> None:
    """Ours refuses by the very slowdown it is graded by, and anything may be set from the command line."""
    both = environments(2, 4.0, ["max_rows=3"])
    assert both[LOCK] == {"OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    assert both[OURS].items() >= both[LOCK].items()
    assert both[OURS]["INPAINT_MAX_ROWS"] == "3"
    knob = both[OURS].get("INPAINT_MAX_SLOWDOWN")
    assert knob == ("4.0" if "max_slowdown" in Settings.model_fields else None)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    """A typing mistake in the model must not look like a slow server."""
    arguments = ["bench.lock_baseline", "--model", str(tmp_path / "nowhere")]
    with pytest.raises(SystemExit, match="nowhere"), served(arguments, {}, tmp_path / "log"):
        pytest.fail("it started")


def children() -> set[str]:
    """Process ids below this one."""
    return {pid for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()}


@pytest.mark.slow
def test_the_bench_ends_in_one_json_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that tracks serving reads the last line; also keeps both servers in step with the bench."""
    monkeypatch.setattr(serving, "QUICK", replace(serving.QUICK, tries=1, past=(1.5,)))
    before, file = children(), tmp_path / "results" / "serving.json"
    few = ["--quick", "--kind", "quick", "--requests", "2", "--rounds", "1", "--share", "0.5"]
    tiny = ["--device", "cpu", "--model", "demo", "--setting", "warm_up=false"]
    serving.main([*few, *tiny, "--budget-s", "600", "--json", str(file)])
    figures: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(file.read_text("utf-8"))
    (kind,) = figures["kinds"]
    assert kind["levels_apart"]["max"] <= 1
    assert {point["contender"] for point in figures["curve"]} == {LOCK, OURS}
    assert all(point["sent"] == 2 for point in figures["curve"])
    assert figures["model"] == "demo"
    assert children() <= before, "a server was left behind"
