"""The profile itself: measurements in, costs out."""

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from inpaint.batching.cost_curve import Average, at, knee, plausible, power_of_two, settled
from inpaint.batching.cost_record import MadeFor, Measured, Stage, count, from_row, to_row
from inpaint.batching.work import Bucket
from inpaint.errors import OutputError
from inpaint.files import write_atomically

MIN_SLOTS = 4  # two guided rows: a short request must be able to share calls with a long one

_FORMAT = 1
_UNKNOWN_S = 1e-9  # a cell and slot, see Profile.known
_MAX_FOLLOWED = 128  # buckets that were seen in service; the shapes around SDXL's native area are fewer


class Profile:
    """Measured costs; the ``Costs`` of a device. Every method may be called from any thread.

    What is known of a bucket is known of it with any LoRAs.

    The cap of a bucket rests on what was surveyed alone: in service only batches up to the cap are seen, so
    averages that follow the service would compare new figures below the cap with old ones above it.
    """

    def __init__(self, made_for: MadeFor, *, max_slots: int = 16) -> None:
        self.made_for = made_for
        self.max_slots = max_slots
        self._lock = threading.Lock()
        self._table: dict[Bucket, Measured] = {}  # bare; seen in service last stands last
        self._switch: Average | None = None

    @property
    def known(self) -> bool:
        """Whether any UNet call was ever timed.

        Until then the costs are in the right proportion (by cells and slots) but next to nothing, so that
        nothing is refused and buckets still share fairly. No deadline may be derived from them.
        """
        with self._lock:
            return any(measured.steps for measured in self._table.values())

    @property
    def surveyed(self) -> Mapping[Bucket, Mapping[int, float]]:
        """The buckets measured at warm-up: slots → seconds of a UNet call, as they were then."""
        with self._lock:
            return {b: dict(measured.surveyed) for b, measured in self._table.items() if measured.surveyed}

    # The Costs protocol.

    @property
    def overlapped(self) -> bool:
        """Whether encoding and decoding have a thread of their own; else the step loop waits for them."""
        return self.made_for.overlapped

    def step_s(self, bucket: Bucket, slots: int) -> float:
        """Seconds of one UNet call with so many slots, schedulers included."""
        with self._lock:
            return self._step_s(bucket.bare, slots)

    def encode_s(self, bucket: Bucket) -> float:
        """Seconds to encode one request's prompts and pictures, when nothing of it is cached."""
        with self._lock:
            return self._stage_s("encode_s", bucket.bare)

    def decode_s(self, bucket: Bucket) -> float:
        """Seconds to decode one row."""
        with self._lock:
            return self._stage_s("decode_s", bucket.bare)

    def cap(self, bucket: Bucket) -> int:
        """Slots of one UNet call at most: the fewest past which more gain under 8 % of throughput.

        At least 4 and at most ``max_slots``, and no more than fit into memory. A bucket that was not
        surveyed fills the device with as many latent cells as the nearest that was. ``max_slots`` where
        none was.
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
        """Seconds to exchange the LoRAs in the UNet's weights; 0 until it was done once."""
        with self._lock:
            return 0.0 if self._switch is None else self._switch.seconds

    # What was measured.

    def survey(
        self,
        bucket: Bucket,
        steps: Mapping[int, float],
        *,
        encode_s: float,
        decode_s: float,
        limit: int | None = None,
    ) -> None:
        """Enter a warm-up's measurements of one bucket, in place of all that was known of it.

        Args:
            bucket: what was measured.
            steps: slots → seconds of one UNet call, at least one, in doubling steps (1, 2, 4 …).
            encode_s: of one request.
            decode_s: of one row.
            limit: slots that fit at most, where the memory ended the climb.
        """
        assert steps, "a survey of nothing"
        measured = Measured(dict(steps), limit)
        measured.steps = {slots: settled(seconds) for slots, seconds in steps.items()}
        measured.stages = {"encode_s": settled(encode_s), "decode_s": settled(decode_s)}
        with self._lock:
            self._table[bucket] = measured

    def observe_step(self, bucket: Bucket, slots: int, seconds: float) -> None:
        """One UNet call took so long, from its start until its result was there."""
        if not plausible(seconds):
            return
        bucket = bucket.bare
        with self._lock:
            expected = self._step_s(bucket, slots)
            known = any(measured.steps for measured in self._table.values())
            steps = self._followed(bucket).steps
            steps.setdefault(slots, Average(expected, seen=int(known))).take(seconds)

    def observe_encode(self, bucket: Bucket, seconds: float) -> None:
        """One request's encoding took so long; not to be told of one that came from a cache."""
        self._observe_stage("encode_s", bucket, seconds)

    def observe_decode(self, bucket: Bucket, seconds: float) -> None:
        """Decoding took so long, a row."""
        self._observe_stage("decode_s", bucket, seconds)

    def observe_switch(self, seconds: float) -> None:
        """To exchange LoRAs took so long."""
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
        """The bucket's entry, now the one seen last; the longest unseen of too many is forgotten."""
        measured = self._table[bucket] = self._table.pop(bucket, Measured())
        followed = [b for b, m in self._table.items() if not m.surveyed]
        if len(followed) > _MAX_FOLLOWED:
            del self._table[followed[0]]
        return measured

    def _step_s(self, bucket: Bucket, slots: int) -> float:
        """The nearest surveyed bucket's curve, through the point nearest to ``slots`` seen of this one."""
        timed = [b for b, measured in self._table.items() if measured.steps]
        nearest = self._nearest(bucket, [b for b in timed if self._table[b].surveyed] or timed)
        if nearest is None:
            return _UNKNOWN_S * bucket.latent_pixels * slots
        curve = {n: average.seconds for n, average in self._table[nearest].steps.items()}
        if nearest == bucket:
            return at(curve, slots)
        own = self._table[bucket].steps if bucket in self._table else {}
        if not own:
            return at(curve, slots) * bucket.latent_pixels / nearest.latent_pixels
        seen = min(own, key=lambda n: (abs(n - slots), n))
        return own[seen].seconds * at(curve, slots) / at(curve, seen)

    def _stage_s(self, stage: Stage, bucket: Bucket) -> float:
        nearest = self._nearest(bucket, [b for b, m in self._table.items() if stage in m.stages])
        if nearest is None:
            return _UNKNOWN_S * bucket.latent_pixels
        return self._table[nearest].stages[stage].seconds * bucket.latent_pixels / nearest.latent_pixels

    @staticmethod
    def _nearest(bucket: Bucket, others: list[Bucket]) -> Bucket | None:
        """The one most like ``bucket``: computed as precisely, then of the most similar size, then shape."""
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
        """All of it, as :meth:`from_json` reads it."""
        with self._lock:
            buckets = [to_row(bucket, measured) for bucket, measured in self._table.items()]
        made_for = asdict(self.made_for)
        return {"format": _FORMAT, "made_for": made_for, "max_slots": self.max_slots, "buckets": buckets}

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """The profile that :meth:`to_json` wrote.

        Raises:
            ValueError: it did not write this.
        """
        try:
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r} is not {_FORMAT}")
            made_for = MadeFor(
                **{**content["made_for"], "optimizations": tuple(content["made_for"]["optimizations"])}
            )
            profile = cls(made_for, max_slots=count(content["max_slots"]))
            profile._table = dict(map(from_row, content["buckets"]))
        except (AttributeError, KeyError, OverflowError, TypeError) as error:
            raise ValueError(f"not a profile: {type(error).__name__} {error}") from error
        return profile

    @classmethod
    def load(cls, path: Path, made_for: MadeFor, *, max_slots: int = 16) -> Self | None:
        """The profile in ``path``; None where there is none, or none that is true of ``made_for``.

        One whose climb stopped below ``max_slots`` because no more was asked for is none either.
        """
        try:
            profile = cls.from_json(json.loads(path.read_text("utf-8")))
        except (OSError, ValueError):  # damaged: measuring anew is the remedy, and costs seconds
            return None
        if profile.made_for != made_for or profile.max_slots < max_slots:
            return None
        profile.max_slots = max_slots
        return profile

    def save(self, path: Path) -> None:
        """Write it to ``path``, aside and then renamed: another process sees all of it or none.

        Raises:
            OutputError: it could not be written; nothing was left behind.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, json.dumps(self.to_json(), indent=1).encode())
        except OSError as error:
            raise OutputError(f"the profile {path} could not be written: {error.strerror}") from error
