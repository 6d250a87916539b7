"""Which LoRAs are in a UNet, exchanged between two calls. It belongs to the thread that calls the UNet."""

import time
from collections.abc import Callable

from inpaint.lora.cache import LoraSet
from inpaint.lora.hooks import LoraHooks
from inpaint.lora.merge import HotMerge
from inpaint.lora.spec import LoraUse
from inpaint.model.load import Model


class LoraSwitch:
    """Of one model: in its weights, or beside its layers where a memory plan moves or casts the weights."""

    def __init__(self, model: Model) -> None:
        """No LoRA is in use."""
        self.uses: tuple[LoraUse, ...] = ()
        self._way = (
            HotMerge(model.device, model.weights_lock)
            if model.plan.unet == "resident"
            else LoraHooks(model.device, model.dtype)
        )

    def use(self, loras: LoraSet, settle: Callable[[], None]) -> float | None:
        """Have these in the UNet in place of those before; what fails leaves none there.

        Args:
            loras: of the rows of the next call.
            settle: waits for the device.

        Returns:
            The seconds it took; None where there was nothing to do.

        Raises:
            ModelError: they are too strong together.
        """
        if loras.uses == self.uses:
            return None
        settle()  # the call before is not what is timed, and may still read matrices that are let go here
        started = time.monotonic()
        self.uses = ()
        self._way.use(loras.unet)
        settle()
        self.uses = loras.uses
        return time.monotonic() - started
