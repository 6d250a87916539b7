"""Requests with different LoRAs take turns that are worth a switch, and every bucket gets its turn."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import pytest

from inpaint.batching.batcher import Batch
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket, Work, work_of
from inpaint.lora.spec import LoraUse
from tests.inpaint.batching.test_batcher import Bench, Simple

BASE = Bucket(128, 128)
STYLE = BASE._replace(loras=(LoraUse("style", 1.0),))
OTHER = BASE._replace(loras=(LoraUse("style", 0.5),))


@dataclass
class Switching(Simple):
    """Costs: a call of two slots takes two seconds, a switch ``cost_s``."""

    cost_s: float = 1.0

    def switch_s(self) -> float:
        return self.cost_s


def run(bench: Bench, calls: int) -> list[Bucket]:
    """Return the buckets of the next ``calls`` calls."""
    batches: list[Batch] = [bench.step() for _ in range(calls)]
    return [batch[0][0].work.bucket for batch in batches]


def switches(buckets: list[Bucket]) -> int:
    return sum(one.loras != other.loras for one, other in pairwise(buckets))


def test_rows_of_different_loras_never_share_a_call() -> None:
    """The UNet has one set of weights at a time; the same name at another scale is another set."""
    bench = Bench(Switching(most=16))
    for bucket in (BASE, STYLE, OTHER, STYLE):
        bench.batcher.submit(Work(bucket, calls=3))
    batches = [bench.step() for _ in range(9)]
    assert all(len({entry.work.bucket for entry, _ in batch}) == 1 for batch in batches)
    assert Counter(len(batch) for batch in batches) == {1: 6, 2: 3}, "the two with the same LoRAs do share"


@pytest.mark.parametrize("cost_s", [0.1, 1.0, 5.0])
def test_switches_take_a_tenth_of_the_time_at_most(cost_s: float) -> None:
    """With three styles a GPU must still paint most of the time, not swap weights."""
    bench = Bench(Switching(cost_s=cost_s))
    for bucket in (BASE, STYLE, OTHER):
        bench.batcher.submit(Work(bucket, calls=1000))
    buckets = run(bench, 600)
    switching_s = switches(buckets) * cost_s
    assert switching_s <= 0.1 * (600 * 2.0 + switching_s) + cost_s
    counts = Counter(buckets)
    assert max(counts.values()) - min(counts.values()) <= 0.1 * 600, "and the time is shared as before"


def test_every_bucket_has_a_turn_in_every_round() -> None:
    """A lone request with a style is not left waiting behind a crowd without one."""
    bench = Bench(Switching())
    for _ in range(20):
        bench.batcher.submit(Work(BASE, calls=100))
    lone = bench.batcher.submit(Work(STYLE, calls=20))
    started = bench.clock.now
    bench.calls_until_done(lone)
    # Its own 40 s and as much for the others, in turns of 10 s: one of these has begun when it comes.
    assert bench.clock.now - started <= 2 * 40.0 + 2 * 10.0


def test_nothing_changes_where_no_request_uses_loras() -> None:
    """Sizes take turns call by call, as before."""
    bench = Bench(Switching(cost_s=5.0))
    for bucket in (BASE, Bucket(104, 152)):
        bench.batcher.submit(Work(bucket, calls=40))
    assert switches(run(bench, 6)) == 0
    assert Counter(bucket.w for bucket in run(bench, 12)) == {128: 6, 152: 6}


def test_one_set_alone_is_merged_once() -> None:
    """A page on which all paint in one style pays for the switch once."""
    bench = Bench(Switching())
    for _ in range(3):
        bench.batcher.submit(Work(STYLE, calls=10))
    assert switches(run(bench, 10)) == 0


def test_work_knows_the_loras_that_change_anything(request_for: object) -> None:
    """A scale of zero is the base model, and shares its calls."""
    request = request_for(loras="style:0.5,off:0")  # type: ignore[operator]
    assert work_of(request, [(1024, 1024)]).bucket == OTHER


def test_a_profile_knows_no_loras() -> None:
    """A measurement with one set holds for all: LoRAs change numbers, not shapes."""
    profile = Profile(MadeFor("here", "", "", "", ""))
    profile.survey(BASE, {1: 1.0, 2: 1.5}, encode_s=0.2, decode_s=0.3)
    for costs in (profile.step_s(STYLE, 2), profile.step_s(BASE, 2)):
        assert costs == 1.5
    assert (profile.encode_s(STYLE), profile.decode_s(OTHER)) == (0.2, 0.3)
    assert profile.cap(STYLE) == profile.cap(BASE)
    profile.observe_step(STYLE, 2, 3.0)
    profile.observe_encode(OTHER, 0.4)
    assert profile.step_s(BASE, 2) == profile.step_s(OTHER, 2) > 1.5
    assert len(profile.to_json()["buckets"]) == 1
    assert Profile.from_json(profile.to_json()).step_s(STYLE, 2) == profile.step_s(BASE, 2)


def test_a_switch_costs_what_was_measured() -> None:
    """It is free before the first one; then its cost is that of this device."""
    profile = Profile(MadeFor("here", "", "", "", ""))
    assert profile.switch_s() == 0.0
    profile.observe_switch(0.5)
    assert profile.switch_s() == 0.5
    for _ in range(100):
        profile.observe_switch(0.1)
    assert profile.switch_s() == pytest.approx(0.1, rel=0.05)
