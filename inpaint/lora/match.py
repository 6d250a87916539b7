"""Matching of a LoRA file's tensors to a model's layers, with a check that they fit."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from inpaint.errors import ModelError, shown
from inpaint.lora import formulas
from inpaint.lora.changes import Change, Computed, LowRank
from inpaint.lora.families import other_model
from inpaint.lora.formats import COMMON, LORA, Format, Tensors, format_of
from inpaint.lora.layers import Layer, Layers, plain, plain_text, text_layers, unet_layers
from inpaint.lora.names import PARTS, bare
from inpaint.lora.peft import Scales
from inpaint.lora.read import LoraTensors, read

_CONV_IN = ("conv_in", "input_blocks_0_0")
_PLAIN_CHANNELS, _INPAINTING_CHANNELS = 4, 9
_NAMED = 2  # keys that a warning shows
_CALLED = {"down": "lora_down (or lora_A)", "up": "lora_up (or lora_B)"}  # by role, in the words of files


@dataclass(frozen=True, slots=True, eq=False)
class MatchedLora:
    """The changes that a LoRA file makes to one model."""

    unet: Sequence[Change]
    text: tuple[Sequence[Change], Sequence[Change]]  # of the first and of the second encoder
    warnings: tuple[str, ...] = ()  # what of the file is not used, in sentences


@dataclass(frozen=True, slots=True, eq=False)
class LayerIndex:
    """A model's layers by the names that LoRA files use."""

    unet: Layers
    text: tuple[Layers, Layers]

    @classmethod
    def of(cls, unet: Any, encoders: Sequence[Any]) -> "LayerIndex":
        """Index the layers of these modules, in their present form."""
        return cls(unet_layers(unet), (text_layers(encoders[0]), text_layers(encoders[1])))

    def fit(self, file: Path) -> MatchedLora:
        """Read a LoRA file and match it to this model.

        Raises:
            ModelError: the file cannot be read, see :func:`inpaint.lora.read.read`, or is for another model.
        """
        tensors = read(file)
        matching = _Matching(file, tensors, dict(zip(PARTS, (self.unet, *self.text), strict=True)))
        unet, *text = ([*matching.changes(part)] for part in PARTS)
        if not (unet or text[0] or text[1]):
            raise ModelError(f"{file.name} holds no LoRA: all of its layers have a rank of 0")
        return MatchedLora(unet, (text[0], text[1]), (*tensors.warnings, *matching.left_out()))


class _Matching:
    """One file on its way into one model."""

    def __init__(self, file: Path, tensors: LoraTensors, layers: Mapping[str, Layers]) -> None:
        self._file = file
        self._tensors = tensors
        self._layers = layers
        self._homeless: list[str] = []  # layers whose bias has no place in the model

    def changes(self, part: str) -> Iterator[Change]:
        """Yield the changes of one part of the model."""
        for name, tensors in self._tensors.layers[part].items():
            layer = self._find(part, name)
            if layer is None:
                where = "" if part == "unet" else f" in its {part}"
                raise self._misfit(f"the model has no layer {name}{where}")
            yield from self._layer(name, tensors, layer, self._tensors.scales[part])

    def left_out(self) -> Iterator[str]:
        """Yield sentences about what of the file is not used.

        Raises:
            ModelError: it would change the model, in a way that is not known.
        """
        unknown = self._tensors.unknown
        for key in unknown:
            if self._of_a_layer(key):
                raise ModelError(
                    f"{self._file.name} cannot be used: it has {shown(key)}, of an unknown format"
                )
        if unknown:
            named = ", ".join(key[:40] for key in unknown[:_NAMED])
            more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
            yield f"{len(unknown)} of {len(self._tensors.keys)} tensors are not used ({named}{more})"
        if self._homeless:
            more = f" and {len(self._homeless) - 1} more" if len(self._homeless) > 1 else ""
            yield f"biases are not used: their layers have none here ({self._homeless[0][:60]}{more})"

    def _find(self, part: str, name: str) -> Layer | None:
        return self._layers[part].get(plain(name) if part == "unet" else plain_text(name))

    def _of_a_layer(self, key: str) -> bool:
        """Return whether a key begins with the name of one of the model's layers."""
        part, name = bare(key)
        pieces = name.split(".")[:12]
        return any(self._find(part, ".".join(pieces[:n])) for n in range(1, len(pieces) + 1))

    def _layer(self, name: str, tensors: Tensors, layer: Layer, scales: Scales) -> Iterator[Change]:
        for role, tensor in tensors.items():
            if not tensor.isfinite().all():
                raise ModelError(
                    f"{self._file.name} is damaged: {name} holds NaN or infinite values ({role})"
                )
        try:
            found = format_of(tensors)
        except ValueError as error:
            raise ModelError(f"{self._file.name} is damaged: {name} has {error}") from None
        if found is None and not {"diff_b", "up_bias"} & set(tensors):
            raise self._lacks(name, "its matrices")
        try:
            # A pruned file keeps layers of rank 0.
            if found is not None and all(tensors[role].numel() for role in found.roles if role in tensors):
                yield self._weight(name, tensors, layer, found, scales)
            yield from self._bias(name, tensors, layer, found, scales)
        except KeyError as error:
            raise self._lacks(name, _CALLED.get(error.args[0], error.args[0])) from None
        except (TypeError, IndexError, ValueError):  # other dimensions than any of its format has
            raise self._misfit(_shapes(name, layer, tensors)) from None

    def _weight(self, name: str, tensors: Tensors, layer: Layer, found: Format, scales: Scales) -> Change:
        factor = _factor(name, tensors, found, scales)
        magnitude = _magnitude(tensors, layer)
        if found is LORA and magnitude is None:
            if scales.dora:
                raise self._lacks(name, "lora_magnitude_vector, though the file says that it is a DoRA")
            return self._low_rank(name, tensors, layer, factor)
        own = {role: tensors[role] for role in (*sorted(found.roles), "alpha") if role in tensors}
        change = Computed(layer, own, found.delta, factor, magnitude)
        # Of plain SDXL, or trained on the inpainting model itself.
        for inputs in (None, _PLAIN_CHANNELS) if _takes_mask(name, layer) else (None,):
            if (candidate := replace(change, inputs=inputs)).fits():
                return candidate
        raise self._misfit(_shapes(name, layer, own, found.name))

    def _low_rank(self, name: str, tensors: Tensors, layer: Layer, factor: float) -> LowRank:
        up, down, shape = tensors["up"], tensors["down"], layer.shape
        if "mid" in tensors:  # Tucker's core, taken into one of the matrices
            core, rows = tensors["mid"].float(), down.float()
            if core.ndim != 4 or core.shape[1] != len(rows):
                raise self._misfit(_shapes(name, layer, tensors))
            down = torch.einsum("mnkl,ni->mikl", core, rows.flatten(1))
        if _takes_mask(name, layer) and down.ndim == 4 and down.shape[1] == _PLAIN_CHANNELS:
            # Zeros for the five mask channels, which a LoRA trained on plain SDXL's four does not have.
            down = torch.nn.functional.pad(down, (0, 0, 0, 0, 0, _INPAINTING_CHANNELS - _PLAIN_CHANNELS))
        rank, width = down.flatten(1).shape if down.ndim in (2, 4) else (0, 0)
        fits = up.ndim in (2, 4) and up.flatten(1).shape == (shape[0], rank)
        # A 1×1 kernel and a matrix are the same thing; a 3×3 one must have its own shape.
        same_kernel = down.ndim == 2 or down.shape[2:] == (shape[2:] or (1, 1))
        if not fits or not rank or width != torch.Size(shape[1:]).numel() or not same_kernel:
            raise self._misfit(
                f"{name} has the shape {shape} here, and "
                f"the file has {tuple(up.shape)} times {tuple(down.shape)}"
            )
        return LowRank(layer, up.flatten(1), down.flatten(1), factor)

    def _bias(
        self, name: str, tensors: Tensors, layer: Layer, found: Format | None, scales: Scales
    ) -> Iterator[Change]:
        for role in ("diff_b", "up_bias"):
            if role not in tensors or not bool(tensors[role].any()):
                continue
            if layer.bias is None:
                self._homeless.append(name)
                continue
            # PEFT's is a part of the LoRA and scaled like it.
            factor = _factor(name, tensors, found, scales) if role == "up_bias" and found is not None else 1.0
            change = Computed(layer.bias, {"diff": tensors[role].flatten()}, _difference, factor)
            if not change.fits():
                raise self._misfit(_shapes(f"the bias of {name}", layer.bias, change.tensors))
            yield change

    def _misfit(self, problem: str) -> ModelError:
        other = other_model(self._tensors.keys, self._tensors.layers["unet"])
        return ModelError(f"{self._file.name} is not a LoRA for this model: {other or problem}")

    def _lacks(self, name: str, what: str) -> ModelError:
        return ModelError(f"{self._file.name} is damaged: {name} lacks {what}")


def _factor(name: str, tensors: Tensors, found: Format, scales: Scales) -> float:
    scalar = tensors["scalar"].item() if "scalar" in tensors else 1.0  # LyCORIS' learnt factor
    if not found.scaled:
        return scalar
    alpha = tensors["alpha"].item() if "alpha" in tensors else None
    return scalar * scales.factor(name, alpha, found.rank(tensors))


def _magnitude(tensors: Tensors, layer: Layer) -> torch.Tensor | None:
    """Return DoRA's norms in the shape of a column or a row of the layer's weight; None if there are none."""
    if (
        norms := tensors.get("magnitude")
    ) is not None:  # PEFT's: of each output channel, (out,) or (1, out, 1, 1)
        formulas.assert_length(norms, layer.shape[0])
        return norms.reshape(-1, *[1] * (len(layer.shape) - 1))
    if (norms := tensors.get("dora_scale")) is None:
        return None
    if norms.numel() == norms.shape[0]:  # of the output channels
        return norms.reshape(-1, *[1] * (len(layer.shape) - 1))
    return norms.reshape(1, -1, *[1] * (len(layer.shape) - 2))


def _takes_mask(name: str, layer: Layer) -> bool:
    return plain(name) in _CONV_IN and layer.shape[1] == _INPAINTING_CHANNELS


def _difference(tensors: Tensors, bias: torch.Tensor) -> torch.Tensor:
    return tensors["diff"]


def _shapes(name: str, layer: Layer, tensors: Tensors, kind: str = "") -> str:
    """Describe tensors that do not fit a layer."""
    held = " and ".join(
        f"{role} {tuple(tensor.shape)}" for role, tensor in tensors.items() if role not in COMMON
    )
    of = f" for {kind}" if kind else ""
    return f"{name} has the shape {layer.shape} here, and the file has {held}{of}"
