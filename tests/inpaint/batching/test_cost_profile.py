"""The cost model: what was measured, what is predicted from it, and what it learns in service."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.batching.batcher import Batcher
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.errors import OutputError

NATIVE = Bucket(128, 128)
QUARTER = Bucket(64, 64)
HERE = MadeFor("a GPU, 80 GiB", "2.13.0", "0.42.1", "sdxl", "float16", ("qkv", "compile"))
CURVE = {1: 0.03, 2: 0.05, 4: 0.09, 8: 0.175, 16: 0.35}  # 8 slots gain 2.9 % over 4


def surveyed(curve: Mapping[int, float] = CURVE, *, max_slots: int = 16, limit: int | None = None) -> Profile:
    profile = Profile(HERE, max_slots=max_slots)
    profile.survey(NATIVE, curve, encode_s=0.2, decode_s=0.1, limit=limit)
    return profile


def test_it_is_the_costs_of_a_batcher() -> None:
    """The engine passes it to the batcher unchanged; a blank one has no forecasts and refuses nothing."""
    costs: Costs = Profile(HERE)
    batcher = Batcher(costs, clock=lambda: 0.0)
    entry = batcher.submit(Work(NATIVE, calls=22, expires_at=1.0))
    assert batcher.to_begin() == [entry]


@pytest.mark.parametrize(
    ("slots", "seconds"),
    [(1, 0.03), (2, 0.05), (3, 0.07), (6, 0.1325), (12, 0.2625), (16, 0.35), (32, 0.70)],
)
def test_between_and_beyond_the_measured_slots_it_draws_a_line(slots: int, seconds: float) -> None:
    """A batch of three rows, one of them without guidance, has a size that was not measured."""
    assert surveyed().step_s(NATIVE, slots) == pytest.approx(seconds)


def test_a_measurement_that_falls_does_not_make_large_batches_free() -> None:
    """Two disturbed measurements must not promise that 64 slots take no time at all."""
    assert surveyed({1: 0.08, 2: 0.05}).step_s(NATIVE, 64) == pytest.approx(0.05)
    assert surveyed({1: 0.01, 2: 0.05}).step_s(NATIVE, 4) == pytest.approx(0.10)
    assert surveyed({2: 0.05, 4: 0.06}).step_s(NATIVE, 1) == pytest.approx(0.045)


def test_from_a_single_measurement_it_takes_the_more_expensive_guess() -> None:
    """A forecast that is too short makes a request late; one that is too long only refuses it."""
    profile = surveyed({4: 0.1})
    assert [profile.step_s(NATIVE, slots) for slots in (1, 4, 8)] == [0.1, 0.1, 0.2]


@given(st.dictionaries(st.integers(1, 16), st.floats(1e-4, 1e4), min_size=1), st.integers(1, 64))
def test_every_guess_is_a_possible_cost(curve: dict[int, float], slots: int) -> None:
    """It is more than nothing, and never more than in proportion to a measurement."""
    most = max(max(seconds, seconds * slots / n) for n, seconds in curve.items())
    assert 0 < surveyed(curve).step_s(NATIVE, slots) <= most * 1.000001


def test_another_size_costs_by_its_latent_pixels() -> None:
    """Half the side is a quarter of the arithmetic: 1.59 of 6.76 TFLOP at 512² and 1024²."""
    profile = surveyed()
    assert profile.step_s(QUARTER, 4) == pytest.approx(0.09 / 4)
    assert profile.encode_s(QUARTER) == pytest.approx(0.05)
    assert profile.decode_s(Bucket(128, 256)) == pytest.approx(0.2)


def test_the_nearest_size_of_the_same_precision_is_taken() -> None:
    """What is known of fp32 says more of another fp32 call than what is known of fp16."""
    profile = surveyed()
    profile.survey(QUARTER, {1: 0.02}, encode_s=0.05, decode_s=0.03)
    profile.survey(Bucket(64, 64, precise=True), {1: 0.5}, encode_s=0.05, decode_s=0.03)
    assert profile.step_s(Bucket(64, 72), 1) == pytest.approx(0.02 * 72 / 64)
    assert profile.step_s(Bucket(64, 72, precise=True), 1) == pytest.approx(0.5 * 72 / 64)
    assert profile.step_s(Bucket(128, 120), 1) == pytest.approx(0.03 * 120 / 128)


def test_with_no_measurement_costs_are_next_to_nothing_but_in_proportion() -> None:
    """No request is refused without a measurement, and large pictures do not overtake small ones."""
    profile = Profile(HERE)
    assert not profile.known
    assert 0 < profile.step_s(NATIVE, 2) < 1e-3
    assert profile.step_s(NATIVE, 2) == 4 * profile.step_s(QUARTER, 2) == 2 * profile.step_s(NATIVE, 1)
    assert profile.encode_s(NATIVE) == profile.decode_s(NATIVE) == 4 * profile.decode_s(QUARTER) > 0


def test_the_first_call_makes_a_blank_profile_know() -> None:
    """An engine without a warm-up knows its speed from its first step on, for all sizes."""
    profile = Profile(HERE)
    profile.observe_decode(NATIVE, 0.1)
    assert not profile.known
    profile.observe_step(NATIVE, 2, 0.06)
    assert profile.known
    assert profile.step_s(NATIVE, 2) == 0.06
    assert profile.step_s(QUARTER, 2) == pytest.approx(0.015)
    assert profile.decode_s(NATIVE) == 0.1


def test_what_a_size_teaches_holds_for_all_its_batches() -> None:
    """One slow call of a size never measured corrects the guesses for its larger batches too."""
    profile = surveyed()
    for _ in range(100):
        profile.observe_step(QUARTER, 2, 0.025)  # twice the guess by latent pixels
    assert profile.step_s(QUARTER, 2) == pytest.approx(0.025, rel=0.01)
    assert profile.step_s(QUARTER, 8) == pytest.approx(0.025 * 0.175 / 0.05, rel=0.01)
    assert profile.step_s(NATIVE, 8) == 0.175  # its own measurement, not a neighbour's


def test_a_guess_gives_way_to_the_first_calls() -> None:
    """A size never measured is right before its first picture is finished."""
    profile = surveyed()
    for _ in range(5):
        profile.observe_step(QUARTER, 2, 0.025)  # the guess was 0.0125
    assert profile.step_s(QUARTER, 2) == pytest.approx(0.025, rel=0.1)


def test_a_batch_size_between_learns_what_it_really_costs() -> None:
    """Three rows padded to four cost what four do; a straight line would not know."""
    profile = surveyed()
    for _ in range(100):
        profile.observe_step(NATIVE, 3, 0.09)
    assert profile.step_s(NATIVE, 3) == pytest.approx(0.09, rel=0.01)
    assert profile.step_s(NATIVE, 2) == 0.05


def test_one_paused_call_moves_the_average_by_a_tenth() -> None:
    """A laptop that slept through a step must not turn requests away for the rest of the day."""
    profile = surveyed()
    profile.observe_step(NATIVE, 2, 3600.0)
    profile.observe_encode(NATIVE, 3600.0)
    profile.observe_decode(NATIVE, 3600.0)
    assert profile.step_s(NATIVE, 2) == pytest.approx(0.055)
    assert profile.encode_s(NATIVE) == pytest.approx(0.22)
    assert profile.decode_s(NATIVE) == pytest.approx(0.11)


@pytest.mark.parametrize(("factor", "calls"), [(0.5, 44), (1.5, 44), (8.0, 66)])
def test_a_lasting_change_is_followed_within_three_pictures(factor: float, calls: int) -> None:
    """A GPU that throttles, or compiled code that becomes ready, is the new speed and no outlier."""
    profile = surveyed()
    for _ in range(calls):
        profile.observe_step(NATIVE, 2, 0.05 * factor)
        profile.observe_decode(NATIVE, 0.1 * factor)
    assert profile.step_s(NATIVE, 2) == pytest.approx(0.05 * factor, rel=0.05)
    assert profile.decode_s(NATIVE) == pytest.approx(0.1 * factor, rel=0.05)


@pytest.mark.parametrize("seconds", [0.0, -1.0, nan, inf])
def test_impossible_times_are_ignored(seconds: float) -> None:
    """One NaN in an average would stay there, and every forecast would be NaN."""
    profile, blank = surveyed(), Profile(HERE)
    before = profile.to_json(), blank.to_json()
    for each in (profile, blank):
        each.observe_step(NATIVE, 2, seconds)
        each.observe_encode(NATIVE, seconds)
        each.observe_decode(NATIVE, seconds)
    assert (profile.to_json(), blank.to_json()) == before


CAPS: list[tuple[str, dict[int, float], int]] = [
    ("doubling 4 gains 2.9 %", CURVE, 4),
    ("doubling 8 gains 7.9 %", {1: 0.1, 2: 0.15, 4: 0.22, 8: 0.36, 16: 0.72 / 1.079}, 8),
    ("doubling 8 gains 8.1 %", {1: 0.1, 2: 0.15, 4: 0.22, 8: 0.36, 16: 0.72 / 1.081}, 16),
    ("full from one slot on", {1: 0.1, 2: 0.2, 4: 0.4}, 4),
    ("only one was measured", {1: 0.1}, 4),
    ("the climb ended early", {1: 0.1, 2: 0.11, 4: 0.12, 8: 0.14}, 8),
]


@pytest.mark.parametrize(("curve", "cap"), [case[1:] for case in CAPS], ids=[case[0] for case in CAPS])
def test_the_cap_is_where_doubling_no_longer_pays(curve: dict[int, float], cap: int) -> None:
    """Past it, larger batches make all steps longer and give hardly more pictures."""
    assert surveyed(curve).cap(NATIVE) == cap


def test_the_cap_keeps_to_what_was_asked_for() -> None:
    """``--max-rows 1`` is a promise about latency, even below the usual least."""
    assert surveyed({1: 0.1, 2: 0.11, 4: 0.12, 8: 0.14, 16: 0.18}, max_slots=8).cap(NATIVE) == 8
    assert surveyed(max_slots=2).cap(NATIVE) == 2
    assert Profile(HERE, max_slots=8).cap(NATIVE) == 8


@pytest.mark.parametrize(("limit", "cap"), [(1, 1), (2, 2), (8, 4)])
def test_the_cap_is_no_more_than_fits_into_memory(limit: int, cap: int) -> None:
    """On a small card two guided rows may be too many, and then the usual least does not hold."""
    assert surveyed(limit=limit).cap(NATIVE) == cap
    assert surveyed(limit=1).cap(Bucket(256, 128)) == 1


def test_another_size_fills_the_device_with_as_many_latent_pixels() -> None:
    """One picture of 1024² nearly fills a big GPU; of 512² it takes four."""
    assert surveyed().cap(QUARTER) == 16
    assert surveyed(max_slots=64).cap(Bucket(96, 128)) == 4  # 5.3, down to a size that is compiled
    assert surveyed().cap(Bucket(256, 256)) == 4
    assert surveyed(limit=2).cap(QUARTER) == 8


def test_service_does_not_move_the_cap() -> None:
    """Only batches up to the cap are seen, so new figures would be compared with old ones."""
    profile = surveyed()
    for _ in range(100):
        profile.observe_step(NATIVE, 4, 0.3)
        profile.observe_step(QUARTER, 4, 0.001)
    assert (profile.cap(NATIVE), profile.cap(QUARTER)) == (4, 16)


def test_sizes_without_end_are_forgotten_one_by_one() -> None:
    """A server that is sent every size there is must not grow, nor forget what warm-up measured."""
    profile = surveyed()
    for w in range(1, 400):
        profile.observe_step(QUARTER, 2, 0.02)
        profile.observe_step(Bucket(8, w), 2, 0.01)
    kept = {Bucket(row["h"], row["w"]) for row in profile.to_json()["buckets"]}
    assert len(kept) == 129
    assert {NATIVE, QUARTER, Bucket(8, 399)} <= kept
    assert list(profile.surveyed) == [NATIVE]


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Have threads switch after nearly every instruction."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("eager_switching")
def test_any_thread_may_read_while_others_record() -> None:
    """The engine's threads record while HTTP's threads ask for forecasts."""
    profile, errors = surveyed(), []

    def work(first: int) -> None:
        try:
            for w in range(first, first + 150):
                profile.observe_step(Bucket(8, w), 2, 0.01)
                profile.observe_decode(NATIVE, 0.1)
                profile.cap(Bucket(8, w))
                profile.step_s(QUARTER, 3)
                profile.to_json()
        except RuntimeError as error:  # a dictionary that changed while it was read
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in (1, 151, 301, 451)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_cached_call_is_counted_until_it_is_measured() -> None:
    """Near requests get deadlines from the first one on; the share of the FLOPs serves until then."""
    profile, cached = surveyed(), NATIVE._replace(cached=True)
    for slots, seconds in CURVE.items():
        assert profile.step_s(cached, slots) == pytest.approx(0.31 * seconds)
    assert profile.cap(cached) == profile.cap(NATIVE)
    for _ in range(40):
        profile.observe_step(cached, 2, 0.02)
    assert profile.step_s(cached, 2) == pytest.approx(0.02, rel=0.05)
    assert profile.step_s(cached, 8) == pytest.approx(0.02 / 0.05 * 0.175, rel=0.05), "as full calls grow"
    assert profile.step_s(QUARTER._replace(cached=True), 2) == pytest.approx(0.02 / 4, rel=0.05)
    assert profile.step_s(NATIVE, 2) == 0.05, "full calls are measured apart"


def test_a_file_from_before_there_were_cached_calls_is_read(taught: Profile) -> None:
    """An update does not measure anew what is known."""
    content = taught.to_json()
    content["buckets"] = [row for row in content["buckets"] if not row.pop("cached")]
    assert Profile.from_json(content).step_s(NATIVE, 2) == taught.step_s(NATIVE, 2)


@pytest.fixture
def taught() -> Profile:
    """A profile with everything in it."""
    profile = surveyed(limit=8)
    profile.observe_step(Bucket(64, 72, precise=True), 3, 0.04)
    profile.observe_decode(QUARTER, 0.02)
    profile.observe_step(NATIVE._replace(cached=True), 2, 0.02)
    return profile


def test_it_comes_back_from_its_file_as_it_was(taught: Profile, tmp_path: Path) -> None:
    """A restart serves with what the last process had learnt, without measuring again."""
    path = tmp_path / "profiles" / HERE.file_name
    taught.save(path)
    back = Profile.load(path, HERE)
    assert back is not None
    assert back.to_json() == taught.to_json()
    assert back.cap(NATIVE) == taught.cap(NATIVE)
    assert back.step_s(Bucket(64, 72, precise=True), 8) == taught.step_s(Bucket(64, 72, precise=True), 8)


CHANGES: list[dict[str, Any]] = [
    {"device": "another GPU, 80 GiB"},
    {"torch": "2.14.0"},
    {"diffusers": "0.43.0"},
    {"model": "other"},
    {"dtype": "bfloat16"},
    {"optimizations": ("qkv",)},
    {"plan": "fp8"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_it_is_not_believed_where_anything_differs(
    taught: Profile, change: dict[str, Any], tmp_path: Path
) -> None:
    """Another card's seconds would give wrong forecasts for this one."""
    taught.save(tmp_path / "profile.json")
    other = replace(HERE, **change)
    assert Profile.load(tmp_path / "profile.json", other) is None
    assert other.file_name != HERE.file_name


def test_one_that_was_not_asked_to_climb_as_far_is_measured_anew(tmp_path: Path) -> None:
    """An operator who raises the limit wants larger batches, which were not measured."""
    surveyed({1: 0.1, 2: 0.11, 4: 0.12}, max_slots=4).save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json", HERE, max_slots=8) is None
    smaller = Profile.load(tmp_path / "profile.json", HERE, max_slots=2)
    assert smaller is not None
    assert smaller.cap(NATIVE) == 2


def _without(*keys: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return change


def _with(value: Any, *keys: Any) -> Callable[[Any], None]:
    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


DAMAGE: dict[str, Callable[[Any], None]] = {
    "another format": _with(2, "format"),
    "no format": _without("format"),
    "no identity": _without("made_for"),
    "half an identity": _without("made_for", "dtype"),
    "an unknown identity": _with("x", "made_for", "colour"),
    "no buckets": _without("buckets"),
    "buckets that are none": _with(3, "buckets"),
    "a bucket that is none": _with("x", "buckets", 0),
    "no height": _without("buckets", 0, "h"),
    "a height of 0": _with(0, "buckets", 0, "h"),
    "half a latent pixel": _with(1.5, "buckets", 0, "w"),
    "a text for precise": _with("no", "buckets", 0, "precise"),
    "a text for cached": _with("no", "buckets", 0, "cached"),
    "negative seconds": _with(-1.0, "buckets", 0, "steps", "2"),
    "NaN seconds": _with(nan, "buckets", 0, "steps", "2"),
    "seconds past any float": _with(10**400, "buckets", 0, "surveyed", "2"),
    "seconds as text": _with("0.1", "buckets", 0, "stages", "encode_s"),
    "an unknown stage": _with(0.1, "buckets", 0, "stages", "lunch_s"),
    "no slots": _with(0.1, "buckets", 0, "steps", "0"),
    "slots as text": _with(0.1, "buckets", 0, "steps", "two"),
    "steps as a list": _with([0.1], "buckets", 0, "steps"),
    "a limit of 0": _with(0, "buckets", 0, "limit"),
    "no end of slots": _with(True, "max_slots"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_none(taught: Profile, damage: Callable[[Any], None], tmp_path: Path) -> None:
    """A file that was edited by hand costs a new measurement, and never stops a start."""
    content = json.loads(json.dumps(taught.to_json()))
    Profile.from_json(content)
    damage(content)
    (tmp_path / "profile.json").write_text(json.dumps(content))
    assert Profile.load(tmp_path / "profile.json", HERE) is None
    with pytest.raises(ValueError, match=r"."):
        Profile.from_json(json.loads((tmp_path / "profile.json").read_text()))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'"format"'])
def test_a_file_that_is_no_profile_is_none(content: bytes, tmp_path: Path) -> None:
    """A disk that was full left something else behind."""
    (tmp_path / "profile.json").write_bytes(content)
    assert Profile.load(tmp_path / "profile.json", HERE) is None
    assert Profile.load(tmp_path / "nothing.json", HERE) is None
    assert Profile.load(tmp_path, HERE) is None


def test_a_file_that_cannot_be_written_is_said_and_leaves_nothing(taught: Profile, tmp_path: Path) -> None:
    """The engine warns and serves; the next start finds no half of a profile."""
    taken = tmp_path / "profile.json"
    taken.mkdir()
    with pytest.raises(OutputError, match=r"profile\.json could not be written"):
        taught.save(taken)
    assert list(tmp_path.iterdir()) == [taken]
    with pytest.raises(OutputError, match="could not be written"):
        taught.save(_a_file(tmp_path) / "profile.json")


def _a_file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


@pytest.mark.usefixtures("eager_switching")
def test_two_processes_may_save_simultaneously(taught: Profile, tmp_path: Path) -> None:
    """Workers of one server share the file: each reads a whole one."""
    path = tmp_path / "profile.json"
    taught.save(path)
    found: list[bool] = []
    writers = [threading.Thread(target=lambda: [taught.save(path) for _ in range(30)]) for _ in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found.append(Profile.load(path, HERE) is not None)
    for writer in writers:
        writer.join()
    assert all(found)
    assert list(tmp_path.iterdir()) == [path]


def test_a_real_curve_gives_forecasts_that_grow_with_the_batch() -> None:
    """Forecasts that fell with the load would accept every request."""
    profile = surveyed()
    for bucket in (NATIVE, QUARTER, Bucket(96, 160)):
        costs = [profile.step_s(bucket, slots) for slots in range(1, 33)]
        assert all(smaller < larger for smaller, larger in pairwise(costs))


def test_it_needs_no_torch() -> None:
    """The simulator and the server's supervisor read profiles without waiting seconds for torch."""
    code = "import sys, inpaint.batching.cost_profile; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
