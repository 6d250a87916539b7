"""Headers of ``.safetensors`` files, and JSON files of models: read within bounds."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from inpaint.errors import ModelError, shown

MAX_HEADER_BYTES = 100_000_000  # the format's own limit; SDXL's header has 0.4 MB
# Of a header without the content of its texts: each byte may cost 60 bytes of objects. More than this is an
# attempt to exhaust the memory; a long header of a real file is long for its captions or its workflow.
_MAX_STRUCTURE_BYTES = 10_000_000
# torch.save's zip, and bare pickles of protocol 2 to 5. A safetensors header of 0x380 bytes also starts with
# 80 03, so the length decides as well: a pickle's first eight bytes, read as one, are above 10^16.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# First eight bytes of what downloads leave in place of a file → what it is.
_NO_DOWNLOAD: Mapping[bytes, str] = {
    b"version ": "it is a Git LFS pointer, not the file that it stands for; fetch that with: git lfs pull",
    b"<!doctyp": "it is a web page, not the file; download it again, signed in where the site asks for it",
    b"<html": "it is a web page, not the file; download it again, signed in where the site asks for it",
    b'{"error"': "it is a server's error message, not the file; download it again",
}


def check_safetensors(path: Path) -> Mapping[str, Any]:
    """Read the header of a ``.safetensors`` file: tensor name → dtype, shape, data_offsets.

    Raises:
        ModelError: it is no safetensors file (for example a renamed pickle), or it is truncated.
    """
    if path.suffix.lower() != ".safetensors":
        refuse(path, f"{path.suffix or 'a file without a suffix'} is not accepted, only .safetensors is")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = _length(path, file.read(8), size)
            text = file.read(length)
        _check_structure(path, text)
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its safetensors header is not valid JSON") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(header, dict):
        refuse(path, "its safetensors header is not a JSON object")
    _check_tensors(path, header, size - 8 - length)
    return header


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object from a model's folder.

    Raises:
        ModelError: it cannot be read or is no object.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not valid JSON") from error
    if not isinstance(document, dict):
        refuse(path, "is not a JSON object")
    return document


def refuse(path: Path, why: str) -> NoReturn:
    """Raise the ModelError that says why ``path`` is not accepted."""
    raise ModelError(f"{path}: {why}")


def _length(path: Path, start: bytes, size: int) -> int:
    """Return the header's length, which the file's first eight bytes say."""
    length = int.from_bytes(start, "little")
    if start.startswith(_PICKLE_MAGIC) and length > MAX_HEADER_BYTES:
        refuse(path, "it is a pickle under a safetensors name; pickles run code when opened")
    for magic, what in _NO_DOWNLOAD.items():
        if start.lower().startswith(magic):
            refuse(path, what)
    if len(start) < 8 or not 2 <= length <= size - 8:
        refuse(path, "it is not a safetensors file, or it is truncated")
    if length > MAX_HEADER_BYTES:
        refuse(
            path,
            f"its header has {length / 1e6:.0f} MB, where safetensors allows {MAX_HEADER_BYTES / 1e6:.0f}",
        )
    return length


def _check_structure(path: Path, text: bytes) -> None:
    """Check that a long header is long for its texts: many values cost many times their bytes in memory."""
    if len(text) <= _MAX_STRUCTURE_BYTES:
        return
    plain = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    structure = end = 0
    for found in re.finditer(rb'"[^"]*"', plain):
        structure += found.start() - end + 2  # its quotes
        end = found.end()
        if structure > _MAX_STRUCTURE_BYTES:
            break
    if structure + len(plain) - end > _MAX_STRUCTURE_BYTES:
        refuse(path, "its safetensors header describes more tensors than any model has")


def _is_described(tensor: Any) -> bool:
    """Return whether a header says of a tensor what it must: kind, shape and place."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("dtype"), str):
        return False
    shape, offsets = tensor.get("shape"), tensor.get("data_offsets")
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if len(offsets or ()) != 2 or not all(type(number) is int and number >= 0 for number in numbers):
        return False
    return math.prod(numbers[:-2]) <= 8 * (numbers[-1] - numbers[-2])  # of no kind is an element below a bit


def _check_tensors(path: Path, header: Mapping[str, Any], data_bytes: int) -> None:
    """Check that the last tensor ends where the file ends; this finds a truncated file without reading it."""
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            if not isinstance(tensor, dict) or not all(isinstance(text, str) for text in tensor.values()):
                refuse(path, "the metadata in its safetensors header is not text")
            continue
        if not _is_described(tensor):
            refuse(path, f"its safetensors header describes {shown(name)} wrongly")
        end = max(end, tensor["data_offsets"][1])
    if end != data_bytes:
        refuse(path, f"it holds {data_bytes} bytes of tensors where its header says {end}: truncated?")
