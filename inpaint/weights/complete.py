"""Import of a single file without VAE or text encoders, completed from another model's diffusers folder."""

import json
from collections.abc import Iterator
from pathlib import Path

from inpaint.weights.check_shapes import check_fits
from inpaint.weights.detect import check_single_file
from inpaint.weights.header import read_json, refuse
from inpaint.weights.import_model import choose, written
from inpaint.weights.install import Chunk, Content, check_name, install, text
from inpaint.weights.key_names import UNET, VAE, Piece, name_in_folder, pieces_of_file
from inpaint.weights.prediction import SCHEDULER_FILE, settings_of_file, settings_of_folder
from inpaint.weights.safety import WEIGHT_STEMS
from inpaint.weights.tensors import header_of, read_layout
from inpaint.weights.verify import Progress


def import_completed(
    path: Path,
    parts_from: Path,
    name: str,
    root: Path,
    progress: Progress | None = None,
    *,
    predicts: str | None = None,
) -> Path:
    """Write a single file's components, and all others from the folder ``parts_from``, to ``root/name``.

    Args:
        path: a single ``.safetensors`` file with SDXL's UNet at least.
        parts_from: a diffusers folder; the configurations and tokenizers are taken from it too.
        name: the new model's name: lower-case letters, digits and ``. _ -``.
        root: the models folder; made when missing.
        progress: called with the file's path, bytes written and bytes in all.
        predicts: what the UNet predicts, one of ``PREDICTIONS``; None: as the file says, else noise.

    Returns:
        The new model's folder.

    Raises:
        ModelError: one of the two is refused (the message says why), or the name is taken.
        FetchError: the disk could not be written.
    """
    check_name(name, root)
    if path.is_dir():
        refuse(path, "it is a folder; --parts-from completes a single .safetensors file")
    check_single_file(path, whole=False, predicts=predicts)
    if not parts_from.is_dir():
        refuse(parts_from, "it is a single file; --parts-from needs a diffusers folder")
    contents = _contents(path, parts_from, predicts)
    check_fits(path, parts_from)
    return install(contents, name, root, progress)


def _contents(path: Path, donor: Path, predicts: str | None) -> dict[str, Content]:
    pieces = [piece for pieces in pieces_of_file(read_layout(path)).values() for piece in pieces]
    contents = choose(donor)
    for component, stem in WEIGHT_STEMS.items():
        own = [piece for piece in pieces if piece.component == component]
        if own:
            for place in [place for place in contents if place.startswith(f"{component}/{stem}")]:
                del contents[place]
            contents[f"{component}/{stem}.safetensors"] = weights_of(own)
    channels = next(piece.stored.shape[1] for piece in pieces if piece.place == (UNET, "conv_in.weight"))
    contents["unet/config.json"] = config(donor, UNET, in_channels=channels)
    if any(piece.component == VAE for piece in pieces):  # SDXL's original VAE overflows in 16 bit
        contents["vae/config.json"] = config(donor, VAE, force_upcast=True)
    # The UNet is the file's, so what it predicts is too, whatever the donor's predicts.
    settings = settings_of_file(path, told=predicts) or settings_of_file(path, told="epsilon")
    contents |= written(f"scheduler/{SCHEDULER_FILE}", {**settings_of_folder(donor), **settings})
    return contents


def weights_of(pieces: list[Piece]) -> Content:
    """Return one component's ``.safetensors`` file, with diffusers' names and the dtypes of the pieces."""
    tensors = {name_in_folder(piece): piece.stored for piece in pieces}
    header = header_of(tensors, {"format": "pt"})

    def chunks() -> Iterator[Chunk]:
        yield header
        for stored in tensors.values():
            yield from stored.data()

    return Content(len(header) + sum(stored.size_bytes for stored in tensors.values()), chunks)


def config(folder: Path, component: str, **changes: object) -> Content:
    """Return a component's configuration from ``folder`` with some values changed."""
    return text(json.dumps({**read_json(folder / component / "config.json"), **changes}, indent=2) + "\n")
