"""Tensors stored in ``.safetensors`` files: their place, type and shape, and reading a few rows at a time.

Files are read and not mapped: memory is held for one block at a time, and monitors that count mapped pages
as used memory see none. torch is imported inside functions.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inpaint.errors import ModelError
from inpaint.weights.header import check_safetensors, refuse

if TYPE_CHECKING:
    import torch

# Bytes per element. Types that pack several elements into a byte are not supported.
_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
FLOATS: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_BLOCK_ELEMENTS = 1 << 20  # 4 MB in fp32


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file, or some of its rows."""

    path: Path
    dtype: str  # as safetensors spells it: F16, BF16, F32, …
    shape: tuple[int, ...]
    offset: int  # of its first byte, in bytes from the file's start
    transposed: bool = False  # ``shape`` is that of the transpose of the matrix in the file

    @property
    def rows(self) -> int:
        """The length of the first axis; 1 for a scalar."""
        return self.shape[0] if self.shape else 1

    @property
    def element_bytes(self) -> int:
        """The size of one element in bytes."""
        return _BYTES[self.dtype]

    @property
    def size_bytes(self) -> int:
        """The size in the file in bytes."""
        return math.prod(self.shape) * self.element_bytes

    def third(self, index: int) -> "Stored":
        """Return the first (0), second (1) or last (2) third of the rows."""
        part = replace(self, shape=(self.rows // 3, *self.shape[1:]))
        return replace(part, offset=self.offset + index * part.size_bytes)

    def transpose(self) -> "Stored":
        """Return the transpose of this matrix."""
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    def squeezed(self) -> "Stored":
        """Drop axes of length 1 at the end, which makes a 1×1 convolution a matrix."""
        shape = self.shape
        while len(shape) > 2 and shape[-1] == 1:
            shape = shape[:-1]
        return replace(self, shape=shape)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows to read one at a time; for a transposed matrix, one range of all rows."""
        width = math.prod(self.shape[1:])
        step = self.rows if self.transposed else max(1, _BLOCK_ELEMENTS // max(1, width))
        for start in range(0, self.rows if math.prod(self.shape) else 0, max(1, step)):
            yield start, min(self.rows, start + step)

    def read(self, start: int, stop: int) -> "torch.Tensor":
        """Read rows ``start`` to ``stop``: (stop − start, *shape[1:]), in the file's dtype.

        Raises:
            ModelError: the file became shorter, or its dtype is not a float of at least 16 bit.
        """
        import torch

        if self.transposed:
            stored = self.transpose()
            return stored.read(0, stored.rows).T[start:stop]
        if self.dtype not in FLOATS:
            refuse(self.path, f"it holds weights of the type {self.dtype}")
        row_bytes = math.prod(self.shape[1:]) * self.element_bytes
        data = self._bytes(self.offset + start * row_bytes, (stop - start) * row_bytes)
        return torch.frombuffer(data, dtype=getattr(torch, FLOATS[self.dtype])).reshape(-1, *self.shape[1:])

    def data(self) -> Iterator[bytearray | memoryview]:
        """Yield the bytes in pieces; those of a transposed matrix in the order of the transpose."""
        if self.transposed:
            yield bytes_of(self.read(0, self.rows))
            return
        piece = 1 << 20
        for done in range(0, self.size_bytes, piece):
            yield self._bytes(self.offset + done, min(piece, self.size_bytes - done))

    def _bytes(self, offset: int, size: int) -> bytearray:
        data = bytearray(size)
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                count = file.readinto(data)
        except OSError as error:
            raise ModelError(f"{self.path}: cannot be read ({error.strerror})") from error
        if count != size:
            refuse(self.path, "it became shorter while it was read")
        return data


def read_layout(path: Path) -> dict[str, Stored]:
    """Read where every tensor of a ``.safetensors`` file lies, by name and in the file's order.

    Raises:
        ModelError: it is not such a file, or its header contradicts itself.
    """
    header = check_safetensors(path)
    start = 8 + _header_bytes(path)
    tensors = {
        name: _stored(path, name, entry, start) for name, entry in header.items() if name != "__metadata__"
    }
    return dict(sorted(tensors.items(), key=lambda item: item[1].offset))


def bytes_of(tensor: "torch.Tensor") -> memoryview:
    """Return the bytes of a tensor's elements, in row-major order."""
    import torch

    return memoryview(tensor.contiguous().view(torch.uint8).numpy().reshape(-1).data)


def _header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int) -> Stored:
    dtype, shape = str(entry.get("dtype")), entry.get("shape")
    begin, end = entry["data_offsets"]
    if dtype not in _BYTES:
        refuse(path, f"{name} is of the unknown type {dtype!r}")
    if not isinstance(shape, list) or not all(type(side) is int and side >= 0 for side in shape):
        refuse(path, f"its safetensors header describes {name!r} wrongly")
    found = Stored(path, dtype, tuple(shape), start + begin)
    if begin < 0 or found.size_bytes != end - begin:
        refuse(path, f"its safetensors header describes {name!r} wrongly")
    return found


def header_of(tensors: Mapping[str, Stored], metadata: Mapping[str, str]) -> bytes:
    """Write the header of a ``.safetensors`` file that holds these tensors one after the other."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.size_bytes
        header[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    return len(text).to_bytes(8, "little") + text
