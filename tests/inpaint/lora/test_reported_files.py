"""The LoRA files of public bug reports: each does here what its owner expects, or is refused by its name.

Reports: OneTrainer #485 (bundled embedding), ComfyUI #3060 (DoRA), #197, #5417 (LyCORIS), diffusers #4133,
#3087 (LoHa), InvokeAI #9515 (DoRA), nunchaku #245 (fp8), sd-scripts #1127.
"""

import json
from pathlib import Path

import pytest
import torch

from inpaint.errors import ModelError
from inpaint.lora.changes import by_slot, summed
from inpaint.lora.match import MatchedLora
from tests.inpaint.lora.test_read import CONV, LINEAR, NORM, Tensors, fitted, normal
from tools.files.small_unet import small_unet

K, KC = f"lora_unet_{LINEAR.replace('.', '_')}", f"lora_unet_{CONV.replace('.', '_')}"
KN = f"lora_unet_{NORM.replace('.', '_')}"
DOWN, UP = normal(4, 12), normal(24, 4)
PLAIN = {f"{K}.lora_down.weight": DOWN, f"{K}.lora_up.weight": UP, f"{K}.alpha": torch.tensor(4.0)}
W = small_unet().get_submodule(LINEAR).weight.detach()
PEFT = {f"unet.{LINEAR}.lora_A.weight": DOWN, f"unet.{LINEAR}.lora_B.weight": UP}
TUCKER = {
    f"{KC}.lora_down.weight": normal(4, 8, 1, 1),
    f"{KC}.lora_mid.weight": normal(4, 4, 3, 3),
    f"{KC}.lora_up.weight": normal(16, 4, 1, 1),
}
LOHA = {f"{K}.hada_{w}_{x}": normal(*s) for w in ("w1", "w2") for x, s in (("a", (24, 4)), ("b", (4, 12)))}
LOKR = {f"{K}.lokr_w1": normal(2, 2), f"{K}.lokr_w2": normal(12, 6)}
NORMS = W.norm(dim=1, keepdim=True)

# The name in the reports' script → a file that paints as the plain one does.
AS_PLAIN: dict[str, Tensors] = {
    "plain": PLAIN,
    "alpha1d": PLAIN | {f"{K}.alpha": torch.tensor([4.0])},
    "with_norm": PLAIN | {f"{KN}.w_norm": torch.zeros(8), f"{KN}.b_norm": torch.zeros(8)},
    "lycoris_scalar": PLAIN | {f"{K}.scalar": torch.tensor(1.0)},
    "diff_b": PLAIN | {f"{K}.diff_b": torch.zeros(24)},
    "bundle_emb": PLAIN | {f"bundle_emb.mytoken.clip_{x}": normal(2, 64) for x in "lg"},
    "te_ti_clip": PLAIN | {"clip_l": normal(2, 64)},
    "peft_adapter_name": {
        f"base_model.model.unet.{LINEAR}.lora_{x}.default_0.weight": PEFT[f"unet.{LINEAR}.lora_{x}.weight"]
        for x in "AB"
    },
    "peft_lora_bias": PEFT | {f"unet.{LINEAR}.lora_B.bias": torch.zeros(24)},
}
# … and one that changes the layer by what is given.
CHANGED: dict[str, tuple[Tensors, torch.Tensor]] = {
    "bf16": ({k: v.bfloat16() for k, v in PLAIN.items()}, UP.bfloat16().float() @ DOWN.bfloat16().float()),
    "fp8": (
        {k: v.to(torch.float8_e4m3fn) for k, v in PLAIN.items()},
        UP.to(torch.float8_e4m3fn).float() @ DOWN.to(torch.float8_e4m3fn).float(),
    ),
    "dora": (
        PLAIN | {f"{K}.dora_scale": NORMS},
        (W + UP @ DOWN) * NORMS / (W + UP @ DOWN).norm(dim=1, keepdim=True) - W,
    ),
    "peft_dora": (
        PEFT | {f"unet.{LINEAR}.lora_magnitude_vector": NORMS.flatten()},
        (W + UP @ DOWN) * NORMS / (W + UP @ DOWN).norm(dim=1, keepdim=True) - W,
    ),
    "loha": (LOHA, (normal(24, 4) @ normal(4, 12)) ** 2),
    "lokr": (LOKR, torch.kron(normal(2, 2), normal(12, 6))),
    "locon_cp": (
        TUCKER,
        torch.einsum(
            "om,mnkl,ni->oikl",
            normal(16, 4, 1, 1)[..., 0, 0],
            normal(4, 4, 3, 3),
            normal(4, 8, 1, 1)[..., 0, 0],
        ),
    ),
    "full_diff": ({f"{K}.diff": normal(24, 12)}, normal(24, 12)),
    "oft": ({f"{K}.oft_blocks": torch.zeros(2, 12, 12)}, torch.zeros(24, 12)),
    "alpha_zero": (PLAIN | {f"{K}.alpha": torch.tensor(0.0)}, torch.zeros(24, 12)),
}
REFUSED: dict[str, tuple[Tensors, str]] = {
    "sd15": (
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_down.weight": normal(
                4, 320
            ),
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight": normal(
                320, 4
            ),
        },
        "it was made for Stable Diffusion 1 or 2",
    ),
    "flux": (
        {f"lora_unet_double_blocks_0_img_attn_proj.lora_{x}.weight": normal(4, 4) for x in ("down", "up")},
        "it was made for Flux",
    ),
    "one_extra_layer": (
        PLAIN
        | {
            f"lora_te2_text_model_encoder_layers_31_mlp_fc1.lora_{x}.weight": normal(8, 8)
            for x in ("down", "up")
        },
        "the model has no layer text_model_encoder_layers_31_mlp_fc1 in its text_encoder_2",
    ),
    "rank0_pruned": (
        {f"{K}.lora_down.weight": torch.ones(0, 12), f"{K}.lora_up.weight": torch.ones(24, 0)},
        "holds no LoRA: all of its layers have a rank of 0",
    ),
    "alpha_nan": (PLAIN | {f"{K}.alpha": torch.tensor(torch.nan)}, r"holds NaN or infinite values \(alpha\)"),
    "alpha of four numbers": (PLAIN | {f"{K}.alpha": torch.ones(4)}, "alpha holds 4 numbers instead of one"),
}
HEADERS = {
    "meta_huge": {"ss_tag_frequency": "x" * 5_000_000, "ss_datasets": "[]"},
    "meta_bad_json": {"lora_adapter_metadata": "[1,2]"},
    "meta_alpha_text": {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": "abc"})},
}


def changes(matched: MatchedLora) -> dict[int, torch.Tensor]:
    """Return what a file adds, by the size of the tensor that is changed; no two in these files are equal."""
    found = {}
    for (module, name), parts in by_slot([(1.0, matched.unet)]).items():
        before = getattr(module, name).detach()
        found[before.numel()] = summed(before, parts) - before
    return found


def same(got: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("report", AS_PLAIN)
def test_a_file_with_an_extra_is_still_its_lora(report: str, tmp_path: Path) -> None:
    """One key that was not understood refused all of these files, with a reason that was untrue."""
    found = changes(fitted(tmp_path, AS_PLAIN[report]))
    assert same(found.pop(W.numel()), UP @ DOWN)
    assert not any(extra.any() for extra in found.values())


@pytest.mark.parametrize("report", CHANGED)
def test_a_file_of_another_format_or_storage_has_its_effect(report: str, tmp_path: Path) -> None:
    """These were refused as no plain LoRA, or ended as an internal error."""
    tensors, expected = CHANGED[report]
    (got,) = changes(fitted(tmp_path, tensors)).values()
    assert same(got, expected)


@pytest.mark.parametrize("report", REFUSED)
def test_a_file_that_cannot_be_used_says_why(report: str, tmp_path: Path) -> None:
    """The names of layers, or "internal error", told their owners nothing."""
    tensors, says = REFUSED[report]
    with pytest.raises(ModelError, match=says):
        fitted(tmp_path, tensors)


@pytest.mark.parametrize("report", HEADERS)
def test_a_header_is_no_reason_for_an_internal_error(report: str, tmp_path: Path) -> None:
    """What trainers write there is theirs; a file has its own alphas more often than not."""
    found = changes(fitted(tmp_path, PLAIN, HEADERS[report]))
    assert same(found[W.numel()], UP @ DOWN)


def test_a_header_that_says_rslora_is_followed(tmp_path: Path) -> None:
    """It was refused; the scale is alpha / √rank."""
    header = {"lora_adapter_metadata": json.dumps({"unet.use_rslora": True, "unet.lora_alpha": 4})}
    assert same(changes(fitted(tmp_path, PEFT, header))[W.numel()], 2 * UP @ DOWN)
