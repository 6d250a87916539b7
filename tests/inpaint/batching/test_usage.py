"""Counts of requests by size: the order in which sizes are compiled, over restarts."""

import pytest

from inpaint.batching.usage import Usage
from inpaint.batching.work import Bucket

SQUARE, WIDE, TALL = Bucket(128, 128), Bucket(96, 168), Bucket(168, 96)
ALL = (SQUARE, WIDE, TALL)


def used(**counts: int) -> Usage:
    usage = Usage()
    for bucket, n in counts.items():
        for _ in range(n):
            usage.add({"square": SQUARE, "wide": WIDE, "tall": TALL, "other": Bucket(64, 64)}[bucket])
    return usage


def test_a_machine_without_requests_compiles_the_native_square_first() -> None:
    """Nothing is known of its requests yet, and benchmarks ask for that size."""
    assert Usage().ordered(ALL) == ([SQUARE, WIDE, TALL], 1)


def test_what_requests_use_most_comes_first() -> None:
    """A studio that only paints portraits waits for the upright size, not for the square."""
    assert used(tall=60, wide=30, square=3).ordered(ALL) == ([TALL, WIDE, SQUARE], 2)


def test_other_sizes_count_against_what_is_frequent() -> None:
    """Minutes of compiling are not worth a size that one request in fifty has."""
    assert used(other=97, wide=2, square=1).ordered(ALL) == ([WIDE, SQUARE, TALL], 1)


def test_loras_and_precision_make_no_other_size() -> None:
    """They run the same compiled code, or none."""
    usage = used(square=1)
    usage.add(WIDE._replace(precise=True))
    usage.add(WIDE)
    assert usage.ordered(ALL)[0][0] == WIDE


def test_new_habits_outweigh_old_ones() -> None:
    """A year of squares must not hide what the last weeks asked for."""
    usage = used(square=30_000, wide=9_000)
    assert usage.ordered(ALL)[0][0] == WIDE


def test_the_number_of_sizes_is_limited() -> None:
    """Callers of ``area="whole"`` choose their sizes themselves."""
    usage = used(square=2)
    for w in range(1, 500):
        usage.add(Bucket(8, w))
    assert len(usage.to_rows()) <= 64
    assert usage.ordered(ALL)[0][0] == SQUARE


def test_the_counts_come_back_from_their_rows() -> None:
    """A restart compiles first what was used before it."""
    usage = used(tall=3, other=2)
    assert Usage.from_rows(usage.to_rows()).to_rows() == usage.to_rows()


@pytest.mark.parametrize("rows", [[[0, 1, 1]], [[1, 1]], [[1, 1, "x"]], [[1, 1, True]], 3, ["abc"]], ids=str)
def test_rows_that_are_none_are_refused(rows: object) -> None:
    """A damaged file is measured anew, not believed."""
    with pytest.raises((TypeError, ValueError)):
        Usage.from_rows(rows)
