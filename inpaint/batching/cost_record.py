"""What a profile is made of, and the rows of its file."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Literal

from inpaint.batching.cost_curve import Average, plausible, settled
from inpaint.batching.work import Bucket

Stage = Literal["encode_s", "decode_s"]


@dataclass(frozen=True, slots=True)
class MadeFor:
    """What a profile is true of; it says nothing about anything else."""

    device: str  # as ``warmup.device_name`` calls it
    torch: str  # version
    diffusers: str
    model: str
    dtype: str
    optimizations: tuple[str, ...] = ()  # the ways of ``inpaint.fast`` that are in use
    plan: str = "resident"  # the memory plan
    overlapped: bool = True  # encoding and decoding have a thread of their own

    @property
    def file_name(self) -> str:
        """A file name of its own for each identity."""
        return f"{sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.json"


@dataclass(slots=True)
class Measured:
    """What is known of one bucket."""

    surveyed: dict[int, float] = field(default_factory=dict)  # slots → seconds of a call, at warm-up
    limit: int | None = None  # slots that fit into memory at most
    steps: dict[int, Average] = field(default_factory=dict)  # slots → seconds of a call, by now
    stages: dict[Stage, Average] = field(default_factory=dict)


def to_row(bucket: Bucket, measured: Measured) -> dict[str, Any]:
    """One bucket as :func:`from_row` reads it."""
    return {
        "h": bucket.h,
        "w": bucket.w,
        "precise": bucket.precise,
        "surveyed": {str(slots): seconds for slots, seconds in measured.surveyed.items()},
        "limit": measured.limit,
        "steps": {str(slots): average.seconds for slots, average in measured.steps.items()},
        "stages": {stage: average.seconds for stage, average in measured.stages.items()},
    }


def from_row(row: Any) -> tuple[Bucket, Measured]:
    """One bucket of a file.

    Raises:
        ValueError: no row of ours; or AttributeError, KeyError, TypeError where its very form is another.
    """
    if not isinstance(row["precise"], bool) or not set(row["stages"]) <= {"encode_s", "decode_s"}:
        raise ValueError("a bucket's row is none of ours")
    return Bucket(count(row["h"]), count(row["w"]), row["precise"]), Measured(
        {count(int(slots)): _seconds(seconds) for slots, seconds in row["surveyed"].items()},
        None if row["limit"] is None else count(row["limit"]),
        {count(int(slots)): settled(_seconds(seconds)) for slots, seconds in row["steps"].items()},
        {stage: settled(_seconds(seconds)) for stage, seconds in row["stages"].items()},
    )


def count(value: Any) -> int:
    """A whole number from 1 on.

    Raises:
        ValueError: it is none.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a count")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not plausible(value):
        raise ValueError(f"{value!r} is not a time in seconds")
    return float(value)
