"""SDXL inpainting on your own GPU.

>>> from inpaint import Engine, InpaintRequest

Importing this package loads neither torch nor a model; ``Engine`` is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

from inpaint._version import __version__
from inpaint.errors import InpaintError, RequestError
from inpaint.request import InpaintRequest, InpaintResult
from inpaint.schedulers import SCHEDULERS

if TYPE_CHECKING:
    from inpaint.engine import Engine

__all__ = [
    "SCHEDULERS",
    "Engine",
    "InpaintError",
    "InpaintRequest",
    "InpaintResult",
    "RequestError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "Engine":  # late: it imports torch, which takes seconds, and --help must not wait for it
        from inpaint.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
