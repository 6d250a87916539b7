"""The body of a request to erase, as a pydantic model."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inpaint.request import DEFAULTS, ERASE_GROW, RANGES, MaskChannel
from server.dialects.segmind_request import Picture
from server.service.order import Format, Order, source

_GROW = RANGES["grow"]


class EraseBody(BaseModel):
    """The picture, the mask of what is erased, and how both are read and answered.

    Numbers and booleans may be sent as text, unknown fields are ignored, and null means absent.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    image: Picture
    mask: Annotated[
        str | bytes, Field(description="White is erased, black is kept; sent like the picture, in its size.")
    ]
    grow: Annotated[
        int,
        Field(ge=_GROW.low, le=_GROW.high, description="Pixels of the picture by which the mask is widened."),
    ] = ERASE_GROW
    mask_channel: Annotated[
        MaskChannel,
        Field(description="What the mask erases: what is white in it, or what is transparent (`alpha`)."),
    ] = DEFAULTS["mask_channel"]
    invert_mask: Annotated[
        bool, Field(description="Erase what the mask would keep, and keep what it would erase.")
    ] = False
    resize_mask: Annotated[
        bool, Field(description="Take a mask of the picture's shape in another size, and resize it.")
    ] = False
    format: Annotated[
        Format | None,
        Field(
            description="File format of the answer; if absent, the picture's, or PNG where that is another."
        ),
    ] = None
    quality: Annotated[int, Field(ge=1, le=100, description="Quality of JPEG and WebP files.")] = 95
    crop: Annotated[
        Literal["box"] | None,
        Field(description="`box`: answer only the part that may differ, as PNG; `X-Box` is its place."),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _as_clients_send_it(cls, fields: Any) -> Any:
        """Accept null or empty text for an absent field."""
        if not isinstance(fields, Mapping):
            return fields
        return {name: value for name, value in fields.items() if value is not None and value != ""}

    def order(self) -> Order:
        """Return the request's pictures, which are not fetched yet, and how its mask is read.

        Raises:
            RequestError: a picture is neither URL nor base64.
        """
        settings = {name: getattr(self, name) for name in ("mask_channel", "invert_mask", "resize_mask")}
        return Order(source("image", self.image), source("mask", self.mask), settings | {"grow": self.grow})
