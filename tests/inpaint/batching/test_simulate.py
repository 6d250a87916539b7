"""The batcher under overload: properties of whole traces."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import inf
from pathlib import Path
from statistics import median

import pytest

from bench.lib.virtual import Device, Sent, Tally
from bench.simulate import (
    CPU_MIX,
    MIX,
    POLICIES,
    SQUARE,
    Modelled,
    OnCpu,
    attainment,
    capacity,
    main,
    paced,
    simulate,
    trace,
)
from inpaint.batching.admission import alone_s
from inpaint.batching.work import Work

SEEDS = (0, 1, 2)
COSTS = Modelled()
RATE = capacity(MIX, COSTS)
POLICY = {policy.name: policy for policy in POLICIES}


@cache
def run(policy: str, load: float, seed: int) -> tuple[Sequence[Sent], Tally]:
    requests = trace(MIX, load * RATE, 500, seed, COSTS)
    return requests, simulate(requests, COSTS, POLICY[policy])


@cache
def run_on_a_cpu(policy: str, load: float, seed: int) -> Sequence[Sent]:
    requests = trace(CPU_MIX, load * capacity(CPU_MIX, OnCpu()), 300, seed, OnCpu())
    simulate(requests, OnCpu(), POLICY[policy])
    return requests


@pytest.mark.parametrize("seed", SEEDS)
def test_overload_does_not_take_the_service_down(seed: int) -> None:
    """An operator at 1.2 × capacity: without admission all are served too late."""
    assert attainment(run("admission", 1.2, seed)[0]) >= 0.6
    assert attainment(run("unbounded", 1.2, seed)[0]) < 0.1
    assert attainment(run("cap16", 1.2, seed)[0]) < 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_served_in_time_does_not_fall_as_more_is_asked(seed: int) -> None:
    """Past capacity the good ones a second stay: refusing costs nothing."""
    goodput = {load: load * attainment(run("admission", load, seed)[0]) for load in (1.0, 1.2, 1.5)}
    assert goodput[1.2] >= 0.95 * goodput[1.0]
    assert goodput[1.5] >= 0.95 * goodput[1.2]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_quiet_device_refuses_almost_no_request(seed: int) -> None:
    """Admission must not refuse what the device can do."""
    assert attainment(run("admission", 0.3, seed)[0]) >= 0.98


@pytest.mark.parametrize("load", [0.3, 1.2, 1.5])
@pytest.mark.parametrize("seed", SEEDS)
def test_accepted_requests_are_in_time(seed: int, load: float) -> None:
    """Of the accepted requests at most three in a hundred are late."""
    for requests in (run("admission", load, seed)[0], run_on_a_cpu("admission", load, seed)):
        taken = [sent for sent in requests if sent.fate != "refused"]
        assert all(sent.fate in ("finished", "expired") for sent in taken)
        assert sum(sent.good for sent in taken) >= 0.97 * len(taken)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_cpu_under_overload_keeps_its_goodput(seed: int) -> None:
    """Batches that get slower as they fill, with encodes and decodes between: accepting all is the trap."""
    goodput = {load: load * attainment(run_on_a_cpu("admission", load, seed)) for load in (1.0, 1.5, 2.5)}
    assert goodput[1.5] >= 0.95 * goodput[1.0]
    assert goodput[2.5] >= 0.95 * goodput[1.5]
    assert attainment(run_on_a_cpu("unbounded", 1.5, seed)) < 0.1


@pytest.mark.parametrize("policy", POLICY)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_device_is_never_idle_while_there_is_work(seed: int, policy: str) -> None:
    """Every second of an expensive card: no stall, and every step done was asked for."""
    requests, tally = run(policy, 1.2, seed)
    assert tally.stalls == 0
    steps = {
        fate: sum(s.work.calls * s.work.samples for s in requests if s.fate == fate)
        for fate in ("finished", "expired")
    }
    assert steps["finished"] <= tally.row_steps <= steps["finished"] + steps["expired"]


@cache
def run_paced(pace: str, seed: int) -> tuple[float, float]:
    """Requests in time a second, and the share of the accepted ones that were late, at 1.2 × capacity."""
    mix = paced(MIX, pace)
    rate = 1.2 * capacity(mix, COSTS)
    requests = trace(mix, rate, 400, seed, COSTS)
    tally = simulate(requests, COSTS, POLICY["admission"])
    assert tally.stalls == 0
    taken = [sent for sent in requests if sent.fate != "refused"]
    return rate * attainment(requests), sum(not sent.good for sent in taken) / len(taken)


@pytest.mark.parametrize(("pace", "times"), [("near", 1.5), ("near with caches", 2.0)])
@pytest.mark.parametrize("seed", SEEDS)
def test_near_pictures_serve_far_more_requests_in_time(seed: int, pace: str, times: float) -> None:
    """Under overload the calls that are saved become pictures, and no more requests are promised in vain."""
    exact, near = run_paced("exact", seed), run_paced(pace, seed)
    assert near[0] >= times * exact[0]
    assert near[1] <= max(exact[1], 0.01)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_queue_is_bounded_by_the_deadlines(seed: int) -> None:
    """Memory: what cannot be in time is not kept, so that no other bound is needed."""
    assert run("admission", 1.5, seed)[1].longest_queue <= 12
    assert run("unbounded", 1.5, seed)[1].longest_queue > 80


@pytest.mark.parametrize("seed", SEEDS)
def test_without_deadlines_all_are_finished(seed: int) -> None:
    """No request starves by its size, its steps or its key, even above capacity."""
    requests = [
        Sent(sent.at, replace(sent.work, expires_at=inf)) for sent in trace(MIX, 1.5 * RATE, 200, seed, COSTS)
    ]
    tally = simulate(requests, COSTS, POLICY["admission"])
    assert {sent.fate for sent in requests} == {"finished"}
    assert tally.row_steps == sum(sent.work.calls * sent.work.samples for sent in requests)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_key_with_little_to_do_does_not_wait_for_one_with_much(seed: int) -> None:
    """A customer with few requests next to one who sends twice what the device can do."""
    requests = [
        Sent(sent.at, replace(sent.work, expires_at=inf, key="small" if i % 10 == 0 else "flood"))
        for i, sent in enumerate(trace(MIX, 2 * RATE, 200, seed, COSTS))
    ]
    simulate(requests, COSTS, POLICY["admission"])
    waited = {
        key: median(sent.finished_at - sent.at for sent in requests if sent.work.key == key)
        for key in ("small", "flood")
    }
    assert waited["small"] < waited["flood"] / 3


def test_a_request_alone_takes_what_was_predicted() -> None:
    """The simulated device and the predictions mean the same by every stage."""
    for kind in (*MIX, *paced(MIX, "near with caches")):
        sent = Sent(0.0, kind.work)
        Device(COSTS, POLICY["admission"]).run([sent])
        predicted = alone_s(kind.work, COSTS)
        # Of several samples the first are decoded while the last are painted.
        least = predicted - (kind.work.samples - 1) * COSTS.decode_s(kind.work.bucket)
        assert least - 1e-9 <= sent.finished_at <= predicted + 1e-9


def test_a_forecast_of_one_bucket_is_exact_if_no_more_join() -> None:
    """The forecast simulates the loop as the batcher runs it."""
    device = Device(COSTS, POLICY["admission"])
    work = Work(SQUARE, calls=18)
    ahead = [Sent(0.0, Work(SQUARE, calls)) for calls in (44, 18, 90)]
    last = Sent(0.0, work)
    predicted = Device(COSTS, POLICY["admission"])
    for sent in ahead:
        predicted.batcher.submit(sent.work)
    device.run([*ahead, last])
    assert last.finished_at == pytest.approx(predicted.batcher.forecast_s(work), rel=0.05)


def test_the_bench_ends_in_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The log and the plots read it."""
    kept = tmp_path / "results" / "simulate.json"
    main(["--requests", "40", "--seeds", "1", "--json", str(kept)])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(kept.read_text("utf-8"))
    assert {(row["load"], row["policy"]) for row in figures["rows"]} >= {(1.2, name) for name in POLICY}
    assert all(0 <= row["attainment"] <= 1 for row in figures["rows"])
    assert {row["pace"] for row in figures["paces"]} == {"exact", "near", "near with caches"}


def test_the_bench_takes_a_measured_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator who has measured a card wants to know its capacity."""
    from inpaint.batching.cost_profile import Profile
    from inpaint.batching.cost_record import MadeFor

    profile = Profile(MadeFor("a card", "2.13", "0.42", "demo", "float32", ()))
    profile.survey(SQUARE, {1: 0.1, 2: 0.18, 4: 0.35}, encode_s=0.2, decode_s=0.1)
    file = tmp_path / "profile.json"
    profile.save(file)
    main(["--profile", str(file), "--requests", "10", "--seeds", "1"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["costs"] == "profile.json"
