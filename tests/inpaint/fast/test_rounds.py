"""The order in which shapes are compiled, and calls that are split to fit them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inpaint.batching.work import Bucket
from inpaint.fast import cross_attention_cache
from inpaint.fast.rounds import STAGES, rounds_of
from inpaint.fast.shapes import LEVELS, SLOTS
from inpaint.fast.splitting import in_parts, split
from inpaint.model import deep_level
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain
from tests.support.fast_rows import apart, own_model, random_batch

SQUARE, WIDE, TALL = Bucket(16, 16), Bucket(8, 16), Bucket(16, 8)


def planned(
    model: Model, often: int, stages: tuple[str, ...] = STAGES
) -> list[tuple[str, int, int, int, bool]]:
    rounds = rounds_of(model, (TALL, SQUARE, WIDE), often, SLOTS, None, stages)
    return [
        (each.stage, shape.h, shape.w, shape.slots, each.idle) for each in rounds for shape in each.shapes
    ]


def test_one_guided_picture_comes_first_at_every_size(model: Model) -> None:
    """Most calls have two slots: they are faster at every size before anything that takes minutes."""
    first = planned(model, 1)[:4]
    assert first == [
        ("regional", 16, 8, 2, False),
        ("regional", 16, 16, 2, False),
        ("regional", 8, 16, 2, False),
        ("whole", 16, 8, 2, False),
    ]


def test_larger_calls_wait_until_the_engine_is_idle(model: Model) -> None:
    """Compiling shares the interpreter with the pictures that are being painted."""
    later = planned(model, 1)[4:]
    assert all(idle for *_, idle in later)
    assert [each[:4] for each in later[:3]] == [("whole", 16, 8, n) for n in (1, 4, 8)]
    assert {(stage, slots) for stage, _, _, slots, _ in later[3:]} == {("regional", n) for n in (1, 4, 8)}


def test_the_whole_unet_is_compiled_for_frequent_sizes_alone(model: Model) -> None:
    """Twenty whole UNets would take an hour, for sizes that hardly anyone asks for."""
    assert len([stage for stage, *_ in planned(model, 1) if stage == "whole"]) == 4
    assert {(h, w) for stage, h, w, *_ in planned(model, 2) if stage == "whole"} == {(16, 8), (16, 16)}
    assert len(planned(model, 1)) == 13


def test_every_shape_is_compiled_in_the_end(model: Model) -> None:
    """With one stage only, too, as tests and benches ask for."""
    for stages in (STAGES, STAGES[:1]):
        shapes = {each[1:4] for each in planned(model, 1, stages)}
        assert len(shapes) == 3 * 4
    assert {each[1:3] for each in planned(model, 3, STAGES[1:])} == {(16, 8), (16, 16), (8, 16)}


def test_near_calls_have_their_blocks_compiled_for_every_size(model: Model) -> None:
    """After the exact ones of two slots, and long before larger calls; a shape each that keeps or brings."""
    rounds = rounds_of(model, (TALL, SQUARE), 1, SLOTS, None, STAGES, LEVELS)
    near = [(each, shape) for each in rounds for shape in each.shapes if shape.level]
    assert {each.stage for each, _ in near} == {"regional"}
    assert {(shape.level, shape.h, shape.w, shape.slots) for _, shape in near} == {
        (level, size.h, size.w, n) for level in LEVELS for size in (TALL, SQUARE) for n in SLOTS
    }
    assert [each.idle for each, shape in near if shape.slots == 2] == [False] * 4


@torch.inference_mode()
def test_a_split_near_call_keeps_and_brings_each_slots_level(model: Model) -> None:
    """A full server's near calls of nine slots run as eight and one, perhaps in the same recording."""
    batch, eager = random_batch(model, "abcdefghi"), deep_level.wrap(model.unet, plain(model.unet))
    whole: list[torch.Tensor] = []
    parts: list[torch.Tensor] = []
    split_up = in_parts(eager, SLOTS)
    expected = eager(replace(batch, take_deep=whole.append))
    assert apart(split_up(replace(batch, take_deep=parts.append)), expected) < 1e-5
    assert apart(parts, whole) < 1e-5
    assert apart(split_up(replace(batch, deep=whole[0])), expected) < 1e-5


@pytest.mark.parametrize(
    ("slots", "parts"),
    [
        (1, [1]),
        (3, [3]),
        (5, [4, 1]),
        (7, [7]),
        (8, [8]),
        (9, [8, 1]),
        (13, [8, 4, 1]),
        (16, [8, 8]),
        (24, [8, 8, 8]),
    ],
)
def test_no_number_of_slots_is_without_compiled_code(slots: int, parts: list[int]) -> None:
    """A full server makes calls of 16 slots; uncompiled, they were its slowest."""
    assert split(slots, SLOTS) == parts


@torch.inference_mode()
@pytest.mark.parametrize("cached", [False, True])
def test_a_split_call_gives_the_same(checkpoint: Callable[[int], Path], cached: bool) -> None:
    """Each picture's part of the result, with the text's keys and values in buffers or not."""
    own = own_model("tiny", checkpoint)
    batches = [
        random_batch(own, "abcdefghi"),
        random_batch(own, "a" * 16, seed=1),
        random_batch(own, "abcde"),
    ]
    expected = [plain(own.unet)(batch) for batch in batches]
    calls: list[int] = []

    def watched(batch: UNetBatch) -> torch.Tensor:
        calls.append(batch.sample.shape[0])
        return plain(own.unet)(batch)

    forward = cross_attention_cache.wrap(own.unet, own.dtype, watched, slots=8) if cached else watched
    for _ in range(2):
        assert apart([in_parts(forward, SLOTS)(batch) for batch in batches], expected) < 1e-5
    assert calls == [8, 1, 8, 8, 4, 1] * 2
