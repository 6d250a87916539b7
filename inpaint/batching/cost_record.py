"""The parts of a profile, and the rows of its file."""

import json
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from typing import Any, Literal

from inpaint.batching.cost_curve import Average, plausible, settled
from inpaint.batching.work import Bucket
from inpaint.pace import DEEP_LEVEL

Stage = Literal["encode_s", "decode_s"]


@dataclass(frozen=True, slots=True)
class MadeFor:
    """The identity of a profile: the device, the model and the versions that it was measured with."""

    device: str  # as ``calibrate.device_name`` returns it
    torch: str  # version
    diffusers: str  # version
    model: str
    dtype: str
    optimizations: tuple[str, ...] = ()  # of ``inpaint.fast``, those in use
    plan: str = "resident"  # the memory plan's name
    overlapped: bool = True  # encoding and decoding have a thread of their own

    @property
    def deep_cache(self) -> bool:
        """True if near requests are painted with the UNet's deepest level from a cache."""
        return DEEP_LEVEL in self.optimizations

    @property
    def file_name(self) -> str:
        """The name of the profile's file, unique for each identity."""
        return f"{sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]}.json"


@dataclass(slots=True)
class Measured:
    """The measurements of one bucket."""

    surveyed: dict[int, float] = field(
        default_factory=dict
    )  # slots → seconds of a call, before the first request
    limit: int | None = None  # most slots that fit into memory
    steps: dict[int, Average] = field(default_factory=dict)  # slots → seconds of a call, averaged up to now
    stages: dict[Stage, Average] = field(default_factory=dict)


def to_row(bucket: Bucket, measured: Measured) -> dict[str, Any]:
    """Return one bucket's row for the file, which :func:`from_row` reads."""
    return {
        "h": bucket.h,
        "w": bucket.w,
        "precise": bucket.precise,
        "cached": bucket.cached,
        "surveyed": {str(slots): seconds for slots, seconds in measured.surveyed.items()},
        "limit": measured.limit,
        "steps": {str(slots): average.seconds for slots, average in measured.steps.items()},
        "stages": {stage: average.seconds for stage, average in measured.stages.items()},
    }


def from_row(row: Any) -> tuple[Bucket, Measured]:
    """Read one bucket's row from a file.

    Raises:
        ValueError: a value is wrong; or AttributeError, KeyError or TypeError: the row has another form.
    """
    if not isinstance(row["precise"], bool) or not set(row["stages"]) <= {"encode_s", "decode_s"}:
        raise ValueError("a bucket's row has unknown stages, or 'precise' is not true or false")
    cached = row.get("cached", False)  # older files have none
    if not isinstance(cached, bool):
        raise ValueError("'cached' of a bucket's row is not true or false")
    bucket = Bucket(count(row["h"]), count(row["w"]), row["precise"], cached=cached)
    return bucket, Measured(
        {count(int(slots)): _seconds(seconds) for slots, seconds in row["surveyed"].items()},
        None if row["limit"] is None else count(row["limit"]),
        {count(int(slots)): settled(_seconds(seconds)) for slots, seconds in row["steps"].items()},
        {stage: settled(_seconds(seconds)) for stage, seconds in row["stages"].items()},
    )


def count(value: Any) -> int:
    """Return ``value`` if it is a whole number of at least 1.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or value < 1:
        raise ValueError(f"{value!r} is not a count")
    return value


def _seconds(value: Any) -> float:
    if type(value) not in (int, float) or not plausible(value):
        raise ValueError(f"{value!r} is not a time in seconds")
    return float(value)
