"""SAM 2.1: an object from clicks or a box, by a network that looks at the picture once.

The picture is stretched to the network's square and embedded, which takes seconds on a CPU; a click takes
a tenth of a second. transformers' own processor wants torchvision, so the few lines that it does are here.
torch and transformers are imported inside functions.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import ModelError, RequestError
from inpaint.lru import LruCache
from inpaint.selection.edges import refined
from inpaint.selection.hints import Hints, Selection, Variant
from inpaint.selection.snap import snap
from inpaint.weights.lock import load_lock
from inpaint.weights.store import models_dir
from inpaint.weights.verify import verify

if TYPE_CHECKING:
    import torch

MODELS = ("sam2-tiny", "sam2-small")  # the entries of weights.lock, in the order in which they are taken
FETCH = f"inpaint models fetch {MODELS[0]}"
_PARTS = ("vision_config", "prompt_encoder_config", "mask_decoder_config")
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HELD = 6  # embeddings, 16 MiB each in fp32
_FREE_GPU_BYTES = 2_000_000_000  # less, and the GPU is left to the model that paints
_SIDE = 1024  # of the mask whose edge is refined on a larger picture
_STEP = {"smaller": -1, "best": 0, "larger": 1}

Logits = NDArray[np.float32]  # (256, 256), above 0: selected


@dataclass(frozen=True, slots=True)
class Prompt:
    """Hints for the network, as fractions of the picture's sides."""

    points: tuple[tuple[float, float, bool], ...] = ()  # x, y, inside
    box: tuple[float, float, float, float] | None = None
    variant: Variant = "best"


def installed(root: Path | None = None) -> Path | None:
    """Return the verified folder of the first of ``MODELS`` that is installed; None if none is.

    Raises:
        ModelError: one is there, and damaged.
    """
    root = models_dir() if root is None else root
    for entry in filter(None, map(load_lock().get, MODELS)):
        if (root / entry.target).is_dir():
            verify(entry, root / entry.target)
            return root / entry.target
    return None


def prompt_of(picture: NDArray[np.uint8], hints: Hints) -> Prompt:
    """Return the prompt for hints; for the subject, the box of what snap finds.

    Raises:
        RequestError: a scribble, which confuses the network.
    """
    height, width = picture.shape[:2]
    box = hints.box
    if hints.what != "object":
        box = snap(picture, Hints(what="subject")).box or (0, 0, width, height)
        points: tuple[tuple[float, float, bool], ...] = ()
    elif hints.scribble is not None:
        raise RequestError("scribble", "is for the method snap; sam takes points and a box")
    else:
        points = tuple((p.x / width, p.y / height, p.inside) for p in hints.points)
    edges = None if box is None else (box[0] / width, box[1] / height, box[2] / width, box[3] / height)
    return Prompt(points, edges, hints.variant)


def square_of(picture: NDArray[np.uint8], side: int) -> Image.Image:
    """Return a picture stretched to the network's square, as transformers' processor does it."""
    return Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)


def selection_of(picture: NDArray[np.uint8], hints: Hints, logits: Logits, score: float) -> Selection:
    """Return what the network selects, with its edge moved to the edge in the picture."""
    height, width = picture.shape[:2]
    factor = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(logits, size, interpolation=cv2.INTER_LINEAR) > 0
    mask = refined(picture, small) if factor < 1 else small.astype(np.uint8) * 255
    if hints.what == "background":
        mask = 255 - mask
    return Selection.of(mask, score=round(min(max(score, 0.0), 1.0), 4))


class Sam:
    """A network and the pictures that it has looked at; for one thread at a time."""

    def __init__(self, model: Any) -> None:
        """Take a ``Sam2Model`` that is on its device."""
        self._model = model
        self._embeddings: LruCache[str, Any] = LruCache(_HELD)
        self.embedded = 0  # pictures, so far

    @classmethod
    def load(cls, folder: Path, device: str = "auto") -> "Sam":
        """Load a verified folder of weights.

        Raises:
            ModelError: its files are not those of SAM 2.
            DeviceError: the device is not there.
        """
        import torch
        from transformers import Sam2Config, Sam2Model

        place = _device(device)
        dtype = torch.bfloat16 if place.type == "cpu" and _has_bf16() else torch.float32
        try:
            read = json.loads((folder / "config.json").read_text("utf-8"))
            # The file describes the video model, about which from_pretrained would warn at every start.
            config = Sam2Config(**{name: read[name] for name in _PARTS})
            model = Sam2Model.from_pretrained(folder, config=config, dtype=dtype, local_files_only=True)
        except Exception as error:  # the loaders of three libraries raise anything
            raise ModelError(f"{folder} holds no SAM 2 model; run: {FETCH}") from error
        return cls(model.to(place).eval())

    @property
    def side(self) -> int:
        """Side in pixels of the square that the network looks at."""
        size = self._model.config.prompt_encoder_config.image_size
        return int(size if isinstance(size, int) else size[0])

    def holds(self, key: str) -> bool:
        """Return whether a picture is embedded."""
        return self._embeddings.get(key) is not None

    def embed(self, key: str, square: Image.Image) -> None:
        """Look at a picture, stretched by :func:`square_of`, and remember it as ``key``."""
        import torch

        if self.holds(key):
            return
        pixels = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None].float() / 255
        mean, deviation = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _DEVIATION))
        with torch.inference_mode():
            own = ((pixels - mean) / deviation).to(self._model.device, self._model.dtype)
            self._embeddings.put(key, self._model.get_image_embeddings(own))
        self.embedded += 1

    def decide(self, key: str, prompt: Prompt) -> tuple[Logits, float]:
        """Return the logits of the mask that is meant in an embedded picture, and how sure the network is.

        A second point corrects what the first one selected, so that is shown to the network as well.
        """
        import torch

        embeddings = self._embeddings.get(key)
        assert embeddings is not None, "a picture is embedded before its first click"
        alone = len(prompt.points) == 1 and prompt.box is None
        earlier = None
        with torch.inference_mode():
            if len(prompt.points) > 1 and prompt.box is None and prompt.points[0][2]:
                masks, scores = self._decode(embeddings, Prompt(prompt.points[:1]), several=True)
                earlier = masks[int(scores.argmax())][None, None]
            several = alone or prompt.variant != "best"
            masks, scores = self._decode(embeddings, prompt, several=several, earlier=earlier)
            chosen = _chosen((masks > 0).sum((1, 2)).tolist(), scores.tolist(), _STEP[prompt.variant])
            return masks[chosen].cpu().numpy(), float(scores[chosen])

    def _decode(
        self, embeddings: Any, prompt: Prompt, *, several: bool, earlier: "torch.Tensor | None" = None
    ) -> "tuple[torch.Tensor, torch.Tensor]":
        """Return the masks (1 or 3, 256, 256) and their scores."""
        import torch

        given: dict[str, Any] = {}
        device = self._model.device
        if prompt.points:
            # In fp32: a bf16 number of 501 is 500.
            where = [[x * self.side, y * self.side] for x, y, _ in prompt.points]
            given["input_points"] = torch.tensor([[where]], dtype=torch.float32, device=device)
            labels = [[[int(inside) for *_, inside in prompt.points]]]
            given["input_labels"] = torch.tensor(labels, device=device)
        if prompt.box is not None:
            edges = [[[edge * self.side for edge in prompt.box]]]
            given["input_boxes"] = torch.tensor(edges, dtype=torch.float32, device=device)
        if earlier is not None:
            given["input_masks"] = earlier.to(self._model.dtype)
        out = self._model(image_embeddings=embeddings, multimask_output=several, **given)
        return out.pred_masks[0, 0].float(), out.iou_scores[0, 0].float()


def _chosen(areas: Sequence[float], scores: Sequence[float], step: int) -> int:
    """Return the number of the best mask, or of the next smaller (-1) or larger (1) one."""
    best = max(range(len(scores)), key=lambda number: scores[number])
    order = sorted(range(len(areas)), key=lambda number: areas[number])
    return order[min(max(order.index(best) + step, 0), len(order) - 1)]


def _device(name: str) -> "torch.device":
    import torch

    from inpaint.model.load import pick_device

    device = pick_device(name)
    if device.type == "mps":  # one report says that it computes Hiera's queries wrongly
        return torch.device("cpu")
    crowded = device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < _FREE_GPU_BYTES
    return torch.device("cpu") if crowded else device


def _has_bf16() -> bool:
    from inpaint.cpu import bf16_units

    return bool(bf16_units())
