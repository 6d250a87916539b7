"""The cost profile of a device: it takes measurements and predicts seconds."""

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from inpaint.batching.cost_curve import Average, at, knee, plausible, power_of_two, settled
from inpaint.batching.cost_record import MadeFor, Measured, Stage, count, from_row, to_row
from inpaint.batching.usage import Usage
from inpaint.batching.work import Bucket
from inpaint.errors import OutputError
from inpaint.files import write_atomically

MIN_SLOTS = 4  # two guided rows: a short request must be able to share calls with a long one

_FORMAT = 1
# Seconds of a call that takes the UNet's deepest level from a cache, for each second of a full one, until it
# was measured: counted FLOPs of SDXL at 1024², see ``deep_level``.
_CACHED_SHARE = 0.31
_UNKNOWN_S = 1e-9  # per latent pixel and slot, see Profile.known
_MAX_FOLLOWED = 128  # buckets measured in service; SDXL's native area has fewer shapes


class Profile:
    """The measured ``Costs`` of a device. Every method may be called from any thread.

    Costs are kept by buckets without LoRAs, because they are the same with any.

    The cap of a bucket depends only on the survey before the first request. In service only batches up to the
    cap are measured, so averages would compare new figures below the cap with old ones above it.
    """

    def __init__(self, made_for: MadeFor, *, max_slots: int = 16) -> None:
        self.made_for = made_for
        self.max_slots = max_slots
        self.usage = Usage()  # of this machine's requests, over restarts
        self._lock = threading.Lock()
        self._table: dict[Bucket, Measured] = {}  # bare buckets, the one measured last at the end
        self._switch: Average | None = None

    @property
    def known(self) -> bool:
        """True once a UNet call was timed.

        Until then the costs are in the right proportion (by latent pixels and slots) but nearly zero, so that
        no request is refused and buckets still share fairly. No deadline may be derived from them.
        """
        with self._lock:
            return any(measured.steps for measured in self._table.values())

    @property
    def surveyed(self) -> Mapping[Bucket, Mapping[int, float]]:
        """The buckets measured before the first request: slots → seconds of a UNet call, as measured then."""
        with self._lock:
            return {b: dict(measured.surveyed) for b, measured in self._table.items() if measured.surveyed}

    # The Costs protocol.

    @property
    def overlapped(self) -> bool:
        """True if encoding and decoding have their own thread; otherwise the step loop waits for them."""
        return self.made_for.overlapped

    def step_s(self, bucket: Bucket, slots: int) -> float:
        """Return the seconds of one UNet call with this number of slots, schedulers included."""
        with self._lock:
            return self._step_s(bucket.bare, slots)

    def encode_s(self, bucket: Bucket) -> float:
        """Return the seconds to encode one request's prompts and pictures if none is cached."""
        with self._lock:
            return self._stage_s("encode_s", bucket.bare)

    def decode_s(self, bucket: Bucket) -> float:
        """Return the seconds to decode one row."""
        with self._lock:
            return self._stage_s("decode_s", bucket.bare)

    def cap(self, bucket: Bucket) -> int:
        """Return the most slots of one UNet call: the fewest past which more gain under 8 % of throughput.

        It is at least 4 and at most ``max_slots``, and no more than fit into memory. A bucket that was not
        surveyed gets as many latent pixels in a call as the nearest one that was; ``max_slots`` if none was.
        """
        with self._lock:
            nearest = self._nearest(bucket.bare, [b for b, m in self._table.items() if m.surveyed])
            if nearest is None:
                return self.max_slots
            measured = self._table[nearest]
        share = nearest.latent_pixels / bucket.latent_pixels
        slots = min(max(power_of_two(knee(measured.surveyed) * share), MIN_SLOTS), self.max_slots)
        return slots if measured.limit is None else min(slots, max(1, int(measured.limit * share)))

    def switch_s(self) -> float:
        """Return the seconds to switch the LoRAs in the UNet; 0 until it was done once."""
        with self._lock:
            return 0.0 if self._switch is None else self._switch.seconds

    # Measurements.

    def survey(
        self,
        bucket: Bucket,
        steps: Mapping[int, float],
        *,
        encode_s: float,
        decode_s: float,
        limit: int | None = None,
    ) -> None:
        """Replace all measurements of one bucket by those made before the first request.

        Args:
            bucket: the bucket that was measured.
            steps: slots → seconds of one UNet call; at least one entry, slots doubling (1, 2, 4 …).
            encode_s: seconds to encode one request.
            decode_s: seconds to decode one row.
            limit: the most slots that fit, if memory ran out.
        """
        assert steps, "a survey of nothing"
        measured = Measured(dict(steps), limit)
        measured.steps = {slots: settled(seconds) for slots, seconds in steps.items()}
        measured.stages = {"encode_s": settled(encode_s), "decode_s": settled(decode_s)}
        with self._lock:
            self._table[bucket] = measured

    def observe_step(self, bucket: Bucket, slots: int, seconds: float) -> None:
        """Record the seconds of one UNet call, from its start until its result was ready."""
        if not plausible(seconds):
            return
        bucket = bucket.bare
        with self._lock:
            expected = self._step_s(bucket, slots)
            known = any(measured.steps for measured in self._table.values())
            steps = self._followed(bucket).steps
            steps.setdefault(slots, Average(expected, seen=int(known))).take(seconds)

    def observe_encode(self, bucket: Bucket, seconds: float) -> None:
        """Record the seconds to encode one request; not for one that came from a cache."""
        self._observe_stage("encode_s", bucket, seconds)

    def observe_decode(self, bucket: Bucket, seconds: float) -> None:
        """Record the seconds to decode one row."""
        self._observe_stage("decode_s", bucket, seconds)

    def observe_switch(self, seconds: float) -> None:
        """Record the seconds to switch the LoRAs in the UNet."""
        if plausible(seconds):
            with self._lock:
                self._switch = self._switch or Average(seconds, seen=0)
                self._switch.take(seconds)

    def _observe_stage(self, stage: Stage, bucket: Bucket, seconds: float) -> None:
        if not plausible(seconds):
            return
        bucket = bucket.bare
        with self._lock:
            known = any(stage in measured.stages for measured in self._table.values())
            prior = Average(self._stage_s(stage, bucket), seen=int(known))
            self._followed(bucket).stages.setdefault(stage, prior).take(seconds)

    # Below here: with the lock held.

    def _followed(self, bucket: Bucket) -> Measured:
        """Return the bucket's entry, now at the end of the table; forget the oldest if there are too many."""
        measured = self._table[bucket] = self._table.pop(bucket, Measured())
        followed = [b for b, m in self._table.items() if not m.surveyed]
        if len(followed) > _MAX_FOLLOWED:
            del self._table[followed[0]]
        return measured

    def _step_s(self, bucket: Bucket, slots: int) -> float:
        """Scale the nearest surveyed bucket's curve to this bucket's measured point nearest to ``slots``."""
        if bucket.cached:
            return self._cached_step_s(bucket, slots)
        timed = [b for b, measured in self._table.items() if measured.steps and not b.cached]
        nearest = self._nearest(bucket, [b for b in timed if self._table[b].surveyed] or timed)
        if nearest is None:
            return _UNKNOWN_S * bucket.latent_pixels * slots
        curve = {n: average.seconds for n, average in self._table[nearest].steps.items()}
        if nearest == bucket:
            return at(curve, slots)
        own = self._table[bucket].steps if bucket in self._table else {}
        if not own:
            return at(curve, slots) * bucket.latent_pixels / nearest.latent_pixels
        closest = min(own, key=lambda n: (abs(n - slots), n))
        return own[closest].seconds * at(curve, slots) / at(curve, closest)

    def _cached_step_s(self, bucket: Bucket, slots: int) -> float:
        """Scale a full call's seconds to the measured point of cached calls that is nearest."""
        full_s = self._step_s(bucket._replace(cached=False), slots)
        nearest = self._nearest(bucket, [b for b, m in self._table.items() if b.cached and m.steps])
        if nearest is None:
            return _CACHED_SHARE * full_s
        steps = self._table[nearest].steps
        closest = min(steps, key=lambda n: (abs(n - slots), n))
        return full_s * steps[closest].seconds / self._step_s(nearest._replace(cached=False), closest)

    def _stage_s(self, stage: Stage, bucket: Bucket) -> float:
        nearest = self._nearest(bucket, [b for b, m in self._table.items() if stage in m.stages])
        if nearest is None:
            return _UNKNOWN_S * bucket.latent_pixels
        return self._table[nearest].stages[stage].seconds * bucket.latent_pixels / nearest.latent_pixels

    @staticmethod
    def _nearest(bucket: Bucket, others: list[Bucket]) -> Bucket | None:
        """Return the bucket most like ``bucket``: by precision, then by size, then by shape."""
        return min(
            others,
            key=lambda b: (
                b.precise != bucket.precise,
                abs(math.log(b.latent_pixels / bucket.latent_pixels)),
                b != bucket,
            ),
            default=None,
        )

    # The file.

    def to_json(self) -> dict[str, Any]:
        """Return the profile as JSON values, which :meth:`from_json` reads."""
        with self._lock:
            buckets = [to_row(bucket, measured) for bucket, measured in self._table.items()]
        return {
            "format": _FORMAT,
            "made_for": asdict(self.made_for),
            "max_slots": self.max_slots,
            "buckets": buckets,
            "requests": self.usage.to_rows(),
        }

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """Make the profile that :meth:`to_json` wrote.

        Raises:
            ValueError: the content is not a profile of this format.
        """
        try:
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r} is not {_FORMAT}")
            made_for = MadeFor(
                **{**content["made_for"], "optimizations": tuple(content["made_for"]["optimizations"])}
            )
            profile = cls(made_for, max_slots=count(content["max_slots"]))
            profile._table = dict(map(from_row, content["buckets"]))
            profile.usage = Usage.from_rows(content.get("requests", []))
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"not a profile: {type(error).__name__} {error}") from error
        return profile

    @classmethod
    def load(cls, path: Path, made_for: MadeFor, *, max_slots: int = 16) -> Self | None:
        """Read the profile in ``path``; return None if it cannot be read or has another identity.

        Also return None if it was measured with a lower ``max_slots``.
        """
        try:
            profile = cls.from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError):  # damaged: it is measured again, which takes seconds
            return None
        if profile.made_for != made_for or profile.max_slots < max_slots:
            return None
        profile.max_slots = max_slots
        return profile

    def save(self, path: Path) -> None:
        """Write the profile to ``path`` atomically: another process reads all of it or none.

        Raises:
            OutputError: it could not be written; no partial file was left behind.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self.to_json(), indent=1).encode())
        except OSError as error:
            raise OutputError(f"the profile {path} could not be written: {error.strerror}") from error
