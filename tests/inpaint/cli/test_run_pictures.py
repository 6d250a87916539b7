"""Pictures of every format through ``inpaint run``: what is written, what stays, and what is said."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inpaint.images.codec import decode
from tests.support.cli_runs import Run
from tests.support.odd_pictures import COLOURS, chunks_of, file_of, png_with

pytest_plugins = ["tests.support.cli_fixtures"]

ANIMATED = "warning: image: it is animated; its first frame is painted"
CASES: dict[str, tuple[Callable[[Image.Image], bytes], str, str]] = {
    "a.tif": (lambda image: file_of(image, "TIFF"), "a_inpainted.tif", ""),
    "a.tiff": (
        lambda image: file_of(image, "TIFF", save_all=True, append_images=[image.convert("L")]),
        "a_inpainted.tiff",
        "warning: image: it has several pages; its first page is painted",
    ),
    "a.avif": (
        lambda image: file_of(image, "AVIF"),
        "a_inpainted.png",
        "warning: image: it becomes PNG, because AVIF would change pixels outside the mask; ",
    ),
    "lossless.webp": (lambda image: file_of(image, "WEBP", lossless=True), "lossless_inpainted.webp", ""),
    "anim.webp": (
        lambda image: file_of(image, "WEBP", lossless=True, save_all=True, append_images=[image.rotate(90)]),
        "anim_inpainted.webp",
        ANIMATED,
    ),
    "cmyk.tif": (
        lambda image: file_of(image.convert("CMYK"), "TIFF"),
        "cmyk_inpainted.tif",
        "warning: image: it is CMYK and becomes RGB",
    ),
    "apng.png": (
        lambda image: file_of(image, "PNG", save_all=True, append_images=[image.rotate(90)]),
        "apng_inpainted.png",
        ANIMATED,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_picture_is_written_in_its_format_and_losses_are_said(
    name: str, paint: Run, photo: Image.Image
) -> None:
    """Nothing that is lost is lost without a word, and a scanner's TIFF stays one."""
    make, output, warning = CASES[name]
    Path(name).write_bytes(make(photo))
    done = paint("--json", image=name)
    assert done.code == 0, done.err
    assert done.answers[0]["outputs"] == [output]
    assert warning in done.err
    assert ("warning" in done.err) is bool(warning)
    assert [f"warning: {each}" for each in done.answers[0]["warnings"]] == [
        line for line in done.err.splitlines() if line.startswith("warning")
    ]
    before, after = decode(Path(name)), decode(Path(output))
    was, now = np.asarray(before.image), np.asarray(after.image)
    assert np.array_equal(now[:8], was[:8]), "the mask does not reach the first rows"
    assert not np.array_equal(now, was)


@pytest.mark.parametrize("name", COLOURS)
def test_colours_stay_in_a_painted_png(name: str, inpaint: Run, checkpoint: Callable[[int], Path]) -> None:
    """``gama_linear.png``, ``chrm_wide.png``, ``cicp_p3.png``: every viewer shows what it showed before."""
    Path("a.png").write_bytes(png_with(*COLOURS[name]))
    mask = Image.new("L", (160, 120))
    mask.paste(255, (60, 40, 100, 80))
    mask.save("a_mask.png")
    done = inpaint("run", "a.png", "-p", "x", "--model", checkpoint(9), "--steps", "3", "--no-metadata")
    assert done.code == 0, done.err
    kinds = dict(chunks_of(Path("a_inpainted.png").read_bytes()))
    assert {kind: kinds.get(kind) for kind, _ in COLOURS[name]} == dict(COLOURS[name])
