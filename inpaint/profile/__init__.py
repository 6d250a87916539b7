"""What things cost on one device, measured at warm-up and followed in service: the batcher's ``Costs``.

Knows numbers and buckets, no torch; who measures them is ``warmup``. What was never measured is taken from
the most similar bucket that was, scaled by latent cells, and corrected by the first calls that are seen.
"""

from inpaint.profile.costs import MIN_SLOTS, Profile
from inpaint.profile.record import MadeFor

__all__ = ["MIN_SLOTS", "MadeFor", "Profile"]
