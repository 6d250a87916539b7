"""The simulated fleet: it runs, loses no request, and shows the worth of the server's rule."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from bench.fleet import Bench, Remembered, fewest, main
from bench.lib.routers import RULES, Case, Fleet
from bench.lib.virtual import Device, Policy, Sent
from bench.simulate import MIX, Modelled, trace
from inpaint.batching.admission import alone_s
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor

COSTS = Remembered(Modelled())
BENCH = Bench(MIX, COSTS)


def sent(gpus: int, each: int, seed: int = 0) -> list[Sent]:
    requests = trace(MIX, 0.9 * gpus * BENCH.capacity, gpus * each, seed, COSTS)
    return [Sent(one.at, replace(one.work, expires_at=inf)) for one in requests]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("routers", [1, 3])
def test_everybody_is_painted_once(rule: str, routers: int) -> None:
    """With every rule each request ends, later than it began, and each step that was asked for is done."""
    requests = sent(5, 30)
    fleet = Fleet(Case(5, rule, routers, late_s=0.7), COSTS)
    fleet.run(requests)
    assert {one.fate for one in requests} == {"finished"}
    assert all(one.finished_at > one.at for one in requests)
    asked = sum(one.work.calls * one.work.samples for one in requests)
    assert sum(device.tally.row_steps for device in fleet.devices) == asked
    assert all(device.tally.calls and not device.tally.stalls for device in fleet.devices)


def test_a_fleet_of_one_is_the_device_alone() -> None:
    """The event loop around the devices adds nothing and loses nothing."""
    in_fleet, alone = sent(1, 100), sent(1, 100)
    Fleet(Case(1, "least-backlog", 2), COSTS).run(in_fleet)
    Device(COSTS, Policy("batcher", admits=True)).run(alone)
    assert [one.finished_at for one in in_fleet] == [one.finished_at for one in alone]


def test_the_same_seed_is_the_same_fleet() -> None:
    """A figure can be repeated."""
    runs = []
    for _ in range(2):
        requests = sent(4, 25)
        Fleet(Case(4, "least-backlog", 2), COSTS, seed=3).run(requests)
        runs.append([one.finished_at for one in requests])
    assert runs[0] == runs[1]


@pytest.mark.slow
def test_the_servers_rule_is_worth_it() -> None:
    """Sixteen GPUs at nine tenths of what they can do: the slowest hundredth waits far less."""
    rate = 0.9 * 16 * BENCH.capacity
    by_chance = BENCH.simulate(Case(16, "random"), 1200, rate)
    for routers in (1, 4):
        ours = BENCH.simulate(Case(16, "least-backlog", routers), 1200, rate)
        assert by_chance["p99_s"] > 1.5 * ours["p99_s"]
        assert ours["attainment"] > by_chance["attainment"]


@pytest.mark.slow
def test_late_reports_cost_little_if_their_age_is_known() -> None:
    """A router that takes them for news forgets what it has sent meanwhile."""
    rate = 0.9 * 16 * BENCH.capacity
    fresh, known, unknown = (
        BENCH.simulate(Case(16, "least-backlog", 2, late_s, ages), 1200, rate)["p50_s"]
        for late_s, ages in ((0.0, True), (1.0, True), (1.0, False))
    )
    assert known < 1.25 * fresh
    assert unknown > 1.1 * known


def test_remembered_costs_are_the_costs() -> None:
    """Only faster."""
    for kind in MIX:
        bucket = kind.work.bucket
        assert COSTS.step_s(bucket, 3) == Modelled().step_s(bucket, 3)
        assert COSTS.cap(bucket) == Modelled().cap(bucket)
        assert COSTS.alone_s(kind.work) == alone_s(kind.work, Modelled())


@pytest.mark.parametrize("needed", [1, 2, 7, 8, 100, 137])
def test_the_fewest_are_found(needed: int) -> None:
    """A GPU too many costs more than a second of search."""
    asked: list[int] = []

    def enough(gpus: int) -> bool:
        asked.append(gpus)
        return gpus >= needed

    assert fewest(enough, 1) == needed
    assert min(asked) >= 1


@pytest.mark.slow
def test_quick_ends_in_one_line_of_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the log reads; and its figures hold together."""
    kept = tmp_path / "fleet.json"
    main(["--quick", "--json", str(kept)])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(kept.read_text("utf-8"))
    assert figures["costs"] == "modelled, not measured"
    for row in figures["rows"] + figures["admission"] + figures["late"]:
        assert 0 < row["p50_s"] <= row["p99_s"]
        assert 0 < row["attainment"] <= 1
    for row in figures["sizing"]:
        assert 0.9 * row["gpus"] * figures["capacity_per_s"] >= row["rate"], (
            "a fleet is not planned for its full capacity"
        )
        assert row["p99_s"] <= row["within_s"]
    strict, loose = figures["sizing"]
    assert strict["gpus"] >= loose["gpus"]


@pytest.mark.slow
def test_it_takes_a_measured_profile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator who has measured a card wants to know how many to buy."""
    profile = Profile(MadeFor("a card", "2.13", "0.42", "demo", "float32", ()))
    profile.survey(MIX[0].work.bucket, {1: 0.05, 2: 0.08, 4: 0.15}, encode_s=0.2, decode_s=0.1)
    file = tmp_path / "profile.json"
    profile.save(file)
    main(["--quick", "--profile", str(file)])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["costs"] == "profile.json"
    assert figures["capacity_per_s"] < 0.5, "slower than the modelled device"
