"""The editor of the page alone, in a real browser, with real pointers and keys.

The fixtures are in ``tests.support.editor_fixtures``.
"""

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

if TYPE_CHECKING:  # a module of fixtures is imported by pytest first
    from tests.support.browser import Visit

Grey = NDArray[np.uint8]


class EditorPage:
    """An open harness page, and what the tests do with it. Points are pixels of the picture."""

    def __init__(self, visit: "Visit", url: str) -> None:
        self.visit = visit
        self.page: Page = visit.open(url)
        self.page.wait_for_function("window.ready")

    def run(self, script: str, argument: Any = None) -> Any:
        """Evaluate an expression, or statements in braces; ``editor``, ``h`` (harness), ``a`` are known."""
        body = script if script.startswith("{") else f"return {script}"
        return self.page.evaluate(
            f"async (a) => {{ const h = window.harness, editor = h.editor; {body} }}", argument
        )

    def open(self, picture: Image.Image | bytes, name: str = "photo.png") -> None:
        """Open a picture, as a PNG unless it is a file already."""
        self.run(
            "editor.open({blob: h.blobOf(a[0], a[2]), name: a[1]})", [encoded(picture), name, mime(name)]
        )

    def mask(self) -> Grey:
        """The mask as the server would get it."""
        data = base64.b64decode(self.run("h.base64Of(await editor.maskBlob())"))
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "PNG"
            assert image.mode == "L"
            return np.asarray(image)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the picture is in the window, by the picture's own element, once that is drawn."""
        return tuple(  # type: ignore[return-value]
            self.run(
                """{
                await h.frames(1);
                const r = document.querySelector(".editor-picture").getBoundingClientRect();
                const {width, height} = editor.picture;
                return [r.left + a[0] * r.width / width, r.top + a[1] * r.height / height];
            }""",
                [x, y],
            )
        )

    def drag(self, *points: Sequence[float], button: Any = "left", steps: int = 4) -> None:
        """Press at the first point, move to each other one, release."""
        mouse = self.page.mouse
        mouse.move(*self.at(*points[0]))
        mouse.down(button=button)
        for point in points[1:]:
            mouse.move(*self.at(*point), steps=steps)
        mouse.up(button=button)

    def frame(self) -> None:
        """Wait until the page has drawn what it was asked to draw."""
        self.run("h.frames(2)")


def encoded(picture: Image.Image | bytes) -> str:
    """Base64 of a file, or of a PNG of a picture."""
    if isinstance(picture, Image.Image):
        file = io.BytesIO()
        picture.save(file, "PNG", compress_level=1)
        picture = file.getvalue()
    return base64.b64encode(picture).decode()


def mime(name: str) -> str:
    """What a browser would say a file of this name is."""
    return {"jpg": "image/jpeg", "webp": "image/webp"}.get(name.rpartition(".")[2], "image/png")


def grey_picture(width: int, height: int) -> Image.Image:
    """A picture of middling grey."""
    return Image.new("RGB", (width, height), (120, 130, 140))
