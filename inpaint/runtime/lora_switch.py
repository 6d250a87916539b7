"""The switch of a UNet's LoRAs between two of its calls."""

import time
from collections.abc import Callable

from inpaint.lora.cache import LoraSet
from inpaint.lora.hooks import LoraHooks
from inpaint.lora.merge import HotMerge
from inpaint.lora.spec import LoraUse
from inpaint.model.load import Model


class LoraSwitch:
    """The LoRAs in one model's UNet; it belongs to the thread that calls the UNet.

    They are merged into the weights, or computed next to the layers where a memory plan moves or casts the
    weights.
    """

    def __init__(self, model: Model) -> None:
        """Start without LoRAs."""
        self.uses: tuple[LoraUse, ...] = ()
        self._hooks = LoraHooks(model.device, model.dtype)
        self._merge = HotMerge(model.device, model.weights_lock) if model.plan.unet == "resident" else None

    def use(self, loras: LoraSet, settle: Callable[[], None]) -> float | None:
        """Replace the LoRAs in the UNet by these; after an error there are none.

        Args:
            loras: the LoRAs of the rows of the next call.
            settle: waits for the device.

        Returns:
            The seconds that it took; None if there was nothing to do.

        Raises:
            ModelError: the LoRAs are too strong together.
        """
        if loras.uses == self.uses:
            return None
        settle()  # the call before must not be timed, and may still read matrices that are freed here
        started = time.monotonic()
        self.uses = ()
        if self._merge is not None:
            self._merge.use(loras.unet, settle)
        else:
            self._hooks.use(loras.unet)
            settle()
        self.uses = loras.uses
        return time.monotonic() - started
