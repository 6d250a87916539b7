"""LoRA files in a model: merged at the start, merged between two UNet calls, or beside the layers; no peft.

``reading`` a file, ``fitting`` it to the layers that ``layers`` names, then ``fusing`` it for good, or having
it ``merged`` or ``beside`` for as long as a request wants it. ``catalog`` keeps those that requests name.
"""

from inpaint.lora.beside import Beside, Scaled
from inpaint.lora.catalog import NO_LORAS, Library, LoraSet
from inpaint.lora.fusing import Fused, fuse
from inpaint.lora.merged import Merged

__all__ = ["NO_LORAS", "Beside", "Fused", "Library", "LoraSet", "Merged", "Scaled", "fuse"]
