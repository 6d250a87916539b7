"""What LoRA files hold apart from matrices: passengers, alphas in other places, other storage."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from inpaint.errors import ModelError
from inpaint.lora.changes import summed
from inpaint.lora.match import LayerIndex, MatchedLora
from tools.files.small_unet import SmallUNet, small_unet

Tensors = dict[str, torch.Tensor]
CONV, LINEAR = "mid_block.resnets.0.conv1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
NORM, NO_BIAS = "mid_block.resnets.0.norm1", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
RANK = 4
PEFT = f"base_model.model.{LINEAR}"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora(prefix: str = f"unet.{LINEAR}") -> Tensors:
    """Return the matrices of a LoRA of one layer, which has 12 inputs and 24 outputs."""
    return {f"{prefix}.lora_A.weight": normal(RANK, 12), f"{prefix}.lora_B.weight": normal(24, RANK)}


def fitted(
    folder: Path, tensors: Tensors, header: Mapping[str, str] | None = None, name: str = "style"
) -> MatchedLora:
    path = folder / f"{name}.safetensors"
    save_file(tensors, path, dict(header or {}))
    unet: SmallUNet = small_unet()
    return LayerIndex.of(unet, (nn.Module(), nn.Module())).fit(path)


def delta(matched: MatchedLora) -> torch.Tensor:
    """Return what the only change of a file adds."""
    (change,) = matched.unet
    before = getattr(change.layer.module, change.layer.tensor).detach()
    return summed(before, [(1.0, change)]) - before


def close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> bool:
    return bool((got - expected).abs().max() <= tolerance * expected.abs().max())


PRODUCT = lora()[f"unet.{LINEAR}.lora_B.weight"] @ lora()[f"unet.{LINEAR}.lora_A.weight"]

PASSENGERS: dict[str, Tensors] = {
    "OneTrainer's bundled embedding": {
        "bundle_emb.mytoken.clip_l": normal(2, 8),
        "bundle_emb.mytoken.clip_g": normal(2, 8),
    },
    "an embedding called like a format": {"bundle_emb.alpha.clip_l": normal(2, 8)},
    "a bundled embedding for one encoder": {"clip_l": normal(2, 8)},
    "an embedding's array": {"emb_params": normal(2, 8)},
    "a marker": {"lora_version": torch.ones(1)},
    "an optimizer's state": {"state.0.exp_avg": normal(3, 3)},
}


@pytest.mark.parametrize("what", PASSENGERS)
def test_passengers_are_left_out_with_a_warning(what: str, tmp_path: Path) -> None:
    """The LoRA works without them, and the person who trained it learns that they are missing."""
    matched = fitted(tmp_path, lora() | PASSENGERS[what])
    assert close(delta(matched), PRODUCT)
    (warning,) = matched.warnings
    riders = sorted(PASSENGERS[what])
    assert warning == f"{len(riders)} of {2 + len(riders)} tensors are not used ({', '.join(riders)})"


def test_a_warning_about_hundreds_of_tensors_is_short(tmp_path: Path) -> None:
    """It goes into a header of the answer."""
    riders = {f"bundle_emb.{'x' * 200}{i}.clip_l": normal(1, 8) for i in range(300)}
    (warning,) = fitted(tmp_path, lora() | riders).warnings
    assert warning.startswith("300 of 302 tensors are not used (bundle_emb.xxx")
    assert warning.endswith("and 298 more)")
    assert len(warning) < 180


NOTHING: dict[str, Tensors] = {
    "a bias of zeros": {f"unet.{LINEAR}.diff_b": torch.zeros(24)},
    "PEFT's bias of zeros": {f"unet.{LINEAR}.lora_B.bias": torch.zeros(24)},
    "a bias of zeros without a place": {f"unet.{NO_BIAS}.diff_b": torch.zeros(12)},
    "a scalar of one": {f"unet.{LINEAR}.scalar": torch.tensor(1.0)},
    "a layer of rank 0": {
        f"unet.{CONV}.lora_down.weight": torch.ones(0, 8, 3, 3),
        f"unet.{CONV}.lora_up.weight": torch.ones(16, 0, 1, 1),
    },
    "a layer of rank 0 with alpha": {
        f"unet.{NO_BIAS}.lora_A.weight": torch.ones(0, 12),
        f"unet.{NO_BIAS}.lora_B.weight": torch.ones(12, 0),
        f"unet.{NO_BIAS}.alpha": torch.tensor(0.0),
    },
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_changes_nothing_is_no_reason_to_refuse(what: str, tmp_path: Path) -> None:
    """Trainers write such tensors for layers that they left alone, or pruned."""
    matched = fitted(tmp_path, lora() | NOTHING[what])
    assert close(delta(matched), PRODUCT)
    assert not matched.warnings


def test_norms_of_zeros_change_nothing(tmp_path: Path) -> None:
    """LyCORIS writes them for all norm layers, trained or not."""
    zeros = {f"lora_unet_{NORM.replace('.', '_')}.{key}": torch.zeros(8) for key in ("w_norm", "b_norm")}
    matched = fitted(tmp_path, lora() | zeros)
    for change in matched.unet:
        if change.layer.module.weight.ndim == 1:
            before = change.layer.module.weight.detach()
            assert torch.equal(summed(before, [(1.0, change)]), before)


def test_a_file_of_rank_0_alone_is_no_lora(tmp_path: Path) -> None:
    """It would paint the base's picture, and nobody would know why."""
    with pytest.raises(ModelError, match="holds no LoRA: all of its layers have a rank of 0"):
        fitted(
            tmp_path,
            {
                f"unet.{LINEAR}.lora_A.weight": torch.ones(0, 12),
                f"unet.{LINEAR}.lora_B.weight": torch.ones(24, 0),
            },
        )


def test_a_bias_without_a_place_is_said(tmp_path: Path) -> None:
    """The weights of the layer are used all the same."""
    matched = fitted(tmp_path, lora() | {f"unet.{NO_BIAS}.diff_b": torch.ones(12)})
    assert matched.warnings == (f"biases are not used: their layers have none here ({NO_BIAS[:60]})",)
    assert close(delta(matched), PRODUCT)


STORAGE = {
    torch.float64: 1e-6,
    torch.float32: 1e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 1e-2,
    torch.float8_e4m3fn: 0.1,
    torch.float8_e5m2: 0.2,
}


@pytest.mark.parametrize("dtype", STORAGE, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_floating_storage_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    """Files are stored in 16 bit and in 8 to save space; the products are exact in what is stored."""
    stored = {key: value.to(dtype) for key, value in lora().items()}
    got = delta(fitted(tmp_path, stored))
    down, up = (stored[f"unet.{LINEAR}.lora_{x}.weight"].float() for x in "AB")
    assert close(got, up @ down)
    assert close(got, PRODUCT, STORAGE[dtype])


ALPHAS: dict[str, tuple[Any, float]] = {
    "missing": (None, 1.0),
    "the rank": (torch.tensor(4.0), 1.0),
    "zero": (torch.tensor(0.0), 0.0),
    "negative": (torch.tensor(-2.0), -0.5),
    "of shape 1": (torch.tensor([8.0]), 2.0),
    "of shape 1, 1": (torch.tensor([[8.0]]), 2.0),
    "a whole number": (torch.tensor(2), 0.5),
    "bf16": (torch.tensor(2.0, dtype=torch.bfloat16), 0.5),
    "fp8": (torch.tensor(2.0).to(torch.float8_e4m3fn), 0.5),
}


@pytest.mark.parametrize("what", ALPHAS)
def test_alpha_in_every_form(what: str, tmp_path: Path) -> None:
    """Alpha over rank is the strength that the file was trained at; A1111 takes 0 as it is."""
    alpha, factor = ALPHAS[what]
    got = delta(fitted(tmp_path, lora() | ({} if alpha is None else {f"unet.{LINEAR}.alpha": alpha})))
    assert torch.allclose(got, factor * PRODUCT, atol=1e-5)


def test_a_scalar_multiplies(tmp_path: Path) -> None:
    """LyCORIS' learnt factor."""
    assert close(
        delta(fitted(tmp_path, lora() | {f"unet.{LINEAR}.scalar": torch.tensor([0.25])})), PRODUCT / 4
    )


CONFIGS: dict[str, tuple[dict[str, Any], float]] = {
    "alpha": ({"lora_alpha": 8, "r": 4}, 2.0),
    "alpha as text": ({"lora_alpha": "8", "r": 4}, 2.0),
    "rsLoRA": ({"lora_alpha": 8, "r": 4, "use_rslora": True}, 4.0),
    "an alpha of this layer": ({"lora_alpha": 8, "r": 4, "alpha_pattern": {"attn1.to_k": 2}}, 0.5),
    "an alpha of this layer, anchored": (
        {"lora_alpha": 8, "alpha_pattern": {r"^mid_block.*": 9, rf"^{LINEAR}$": 2}},
        0.5,
    ),
    "an alpha of another layer": ({"lora_alpha": 8, "alpha_pattern": {"attn1.to_q": 2}}, 2.0),
    "a rank that the tensors know better": ({"lora_alpha": 8, "r": 64}, 2.0),
    "LoHa's name of alpha": ({"alpha": 8, "r": 4}, 2.0),
    "nothing": ({}, 1.0),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_the_configuration_next_to_a_file_of_peft_is_read(what: str, tmp_path: Path) -> None:
    """PEFT's own file does not hold its alpha; without the other one it would be painted weaker."""
    config, factor = CONFIGS[what]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    matched = fitted(tmp_path, lora(PEFT), name="adapter_model")
    assert close(delta(matched), factor * PRODUCT)
    assert not matched.warnings


@pytest.mark.parametrize("what", CONFIGS)
def test_diffusers_header_is_read_alike(what: str, tmp_path: Path) -> None:
    """diffusers writes the same configuration into the file, by part of the model."""
    config, factor = CONFIGS[what]
    header = {"lora_adapter_metadata": json.dumps({f"unet.{key}": value for key, value in config.items()})}
    assert close(delta(fitted(tmp_path, lora(), header)), factor * PRODUCT)


def test_a_configuration_is_not_that_of_its_neighbour(tmp_path: Path) -> None:
    """A folder of styles may hold one of PEFT's, and other files from elsewhere."""
    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 8, "r": 4}))
    assert close(delta(fitted(tmp_path, lora())), PRODUCT)


def test_a_peft_file_without_its_configuration_says_so(tmp_path: Path) -> None:
    """It was renamed or moved; its strength is a guess."""
    matched = fitted(tmp_path, lora(PEFT))
    (warning,) = matched.warnings
    assert "names no alpha, and PEFT's adapter_config.json is not next to it" in warning
    assert close(delta(matched), PRODUCT)


@pytest.mark.parametrize(
    "text",
    ["[1]", "{", "null", '{"lora_alpha": "abc"}', '{"lora_alpha": NaN}', '{"alpha_pattern": 3}', "[" * 10**5],
)
def test_a_damaged_configuration_is_refused_by_name(text: str, tmp_path: Path) -> None:
    """It says how strong the LoRA is."""
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ModelError, match=r"adapter_config\.json is damaged"):
        fitted(tmp_path, lora(PEFT), name="adapter_model")


@pytest.mark.parametrize(
    "text",
    ["[1, 2]", "{", "null", '{"unet.lora_alpha": "abc"}', '{"unet.lora_alpha": Infinity}', "[" * 10**5],
)
def test_a_damaged_header_is_a_warning(text: str, tmp_path: Path) -> None:
    """The file has alphas of its own more often than not; the matrices are whole."""
    tensors = lora() | {f"unet.{LINEAR}.alpha": torch.tensor(8.0)}
    matched = fitted(tmp_path, tensors, {"lora_adapter_metadata": text})
    (warning,) = matched.warnings
    assert "lora_adapter_metadata in its header cannot be read" in warning
    assert close(delta(matched), 2 * PRODUCT)


def test_a_header_that_asks_for_dora_is_believed(tmp_path: Path) -> None:
    """Without the norms it would be another picture."""
    header = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    with pytest.raises(
        ModelError, match="lacks lora_magnitude_vector, though the file says that it is a DoRA"
    ):
        fitted(tmp_path, lora(), header)


def test_the_same_norms_in_each_form_are_the_same_dora(tmp_path: Path) -> None:
    """PEFT stores a vector, LyCORIS a column, and PEFT's convolutions a row."""
    norms = normal(24).abs() + 1
    forms = {
        "lora_magnitude_vector": norms,
        "lora_magnitude_vector.weight": norms,
        "lora_magnitude_vector.default.weight": norms[None],
        "dora_scale": norms[:, None],
    }
    found = [
        delta(fitted(tmp_path, lora() | {f"unet.{LINEAR}.{key}": value})) for key, value in forms.items()
    ]
    assert all(close(each, found[0]) for each in found)
    assert not close(found[0], PRODUCT, 0.1)


REFUSED: dict[str, Tensors] = {
    "NaN in a factor of LoHa": {f"unet.{LINEAR}.hada_w1_a": torch.full((24, 4), torch.nan)},
    "infinity in a difference": {f"unet.{LINEAR}.diff": torch.full((24, 12), torch.inf)},
    "NaN in DoRA's norms": lora() | {f"unet.{LINEAR}.dora_scale": torch.full((24, 1), torch.nan)},
    "NaN in a bias": lora() | {f"unet.{LINEAR}.diff_b": torch.full((24,), torch.nan)},
    "NaN in fp8": {
        key: torch.full_like(value, torch.nan).to(torch.float8_e4m3fn) for key, value in lora().items()
    },
    "a scalar that is infinite": lora() | {f"unet.{LINEAR}.scalar": torch.tensor(torch.inf)},
}


@pytest.mark.parametrize("what", REFUSED)
def test_numbers_that_are_none_are_refused(what: str, tmp_path: Path) -> None:
    """A training that went wrong; it would paint NaN, and the request would be blamed."""
    with pytest.raises(ModelError, match=r"is damaged: .* holds NaN or infinite values"):
        fitted(tmp_path, REFUSED[what])


UNFIT: dict[str, Tensors] = {
    "LoHa, transposed": {
        f"unet.{LINEAR}.hada_{w}_{x}": normal(*s)
        for w in ("w1", "w2")
        for x, s in (("a", (12, 4)), ("b", (4, 24)))
    },
    "LoKr of another width": {
        f"unet.{LINEAR}.lokr_w1": normal(2, 2),
        f"unet.{LINEAR}.lokr_w2": normal(12, 8),
    },
    "LoKr, transposed": {f"unet.{LINEAR}.lokr_w1": normal(2, 2), f"unet.{LINEAR}.lokr_w2": normal(6, 12)},
    "a difference of another shape": {f"unet.{LINEAR}.diff": normal(12, 24)},
    "a difference that is a number": {f"unet.{LINEAR}.diff": torch.ones(())},
    "a bias of another length": lora() | {f"unet.{LINEAR}.diff_b": normal(12)},
    "OFT of another width": {f"unet.{LINEAR}.oft_blocks": normal(4, 4, 4)},
    "OFT's blocks not square": {f"unet.{LINEAR}.oft_blocks": normal(6, 4, 2)},
    "BOFT of another width": {f"unet.{LINEAR}.oft_blocks": normal(2, 4, 4, 4)},
    "IA3 of one number": {f"unet.{LINEAR}.weight": normal(1), f"unet.{LINEAR}.on_input": torch.tensor(0)},
    "GLoRA of another width": {f"unet.{LINEAR}.{x}.weight": normal(4, 4) for x in ("a1", "a2", "b1", "b2")},
    "norms of another width": {f"unet.{NORM}.w_norm": normal(12)},
    "a LoRA on a norm layer": lora(f"unet.{NORM}"),
    "DoRA's norms of another width": lora() | {f"unet.{LINEAR}.lora_magnitude_vector": normal(12)},
    "a kernel of another size": {
        f"unet.{CONV}.lora_down.weight": normal(4, 8, 5, 5),
        f"unet.{CONV}.lora_up.weight": normal(16, 4, 1, 1),
    },
    "a Tucker core of another rank": {
        f"unet.{CONV}.lora_down.weight": normal(4, 8, 1, 1),
        f"unet.{CONV}.lora_up.weight": normal(16, 4, 1, 1),
        f"unet.{CONV}.lora_mid.weight": normal(4, 3, 3, 3),
    },
}


@pytest.mark.parametrize("what", UNFIT)
def test_tensors_that_do_not_fit_are_refused(what: str, tmp_path: Path) -> None:
    """They are another model's; broadcast or reshaped they would paint noise."""
    with pytest.raises(ModelError, match="is not a LoRA for this model: "):
        fitted(tmp_path, UNFIT[what])


@pytest.mark.parametrize(
    "kind", ["F32" + "\n" * 3 + "x", "F32" + "a" * 5000, "\x1b[31m"], ids=["lines", "long", "colour"]
)
def test_an_unknown_kind_of_tensor_is_one_short_sentence(kind: str, tmp_path: Path) -> None:
    """safetensors repeats the header in its error, line breaks included (found by fuzzing)."""
    header = json.dumps(
        {"unet.x.lora_A.weight": {"dtype": kind, "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ModelError, match=r"^odd.safetensors cannot be read") as refused:
        LayerIndex.of(small_unet(), (nn.Module(), nn.Module())).fit(path)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300
