"""Models that predict v, with and without zero terminal SNR: stock's pictures, however the model says it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from inpaint import SCHEDULERS, Engine, InpaintRequest, RequestError
from inpaint.model.denoise import step
from inpaint.model.load import Model, load_model
from inpaint.model.vae import decode
from inpaint.weights import import_model, resolve
from tests.inpaint.model.test_guidance_interval import rows_of
from tests.support.single_file import original_tensors
from tests.support.stock import PLAIN, stock_pipeline

Make = Callable[..., InpaintRequest]
CPU = torch.device("cpu")
V = {"prediction_type": "v_prediction"}
V_ZSNR = {**V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# SDXL's own scheduler_config.json, written out: the oracle takes nothing from our table.
SDXL = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
CLASSES = {
    "Euler": diffusers.EulerDiscreteScheduler,
    "DDIM": diffusers.DDIMScheduler,
    "DPM Multi": diffusers.DPMSolverMultistepScheduler,
    "UniPC": diffusers.UniPCMultistepScheduler,
}

# Marks of a single file: tensors, metadata; and the configuration that they stand for.
FILES: dict[str, tuple[tuple[str, ...], dict[str, str], dict[str, object]]] = {
    "NoobAI's": (("v_pred", "ztsnr"), {}, V_ZSNR),
    "v_pred alone": (("v_pred",), {}, V),
    "ModelSpec's": ((), {"modelspec.prediction_type": "v"}, V),
    "kohya's": ((), {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, V_ZSNR),
}


def painted(model: Model, request: InpaintRequest) -> torch.Tensor:
    """The picture (3, H, W) of a request, in 0 … 1."""
    (row,) = rows_of(model, request)
    while not row.done:
        step(model, [row])
    return decode(model, row.latents)[0]


def oracle(model: Model, request: InpaintRequest, config: dict[str, object]) -> torch.Tensor:
    """Stock's picture on the modules of ``model``, with diffusers' own scheduler of that configuration."""
    pipe = stock_pipeline(model)
    cls = CLASSES[request.scheduler]
    own = {"clip_sample": False, "set_alpha_to_one": False} if request.scheduler == "DDIM" else {}
    pipe.scheduler = cls(**{"timestep_spacing": "leading", **SDXL, **own, **config})
    return pipe(
        prompt=request.prompt,
        image=request.image,
        mask_image=request.mask,
        width=128,
        height=128,
        strength=request.strength,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        output_type="pt",
    ).images[0]


@pytest.mark.parametrize(
    ("scheduler", "strength"),
    [
        ("Euler", 1.0),
        ("DDIM", 0.75),
        *(pytest.param(name, 1.0, marks=pytest.mark.slow) for name in ("DDIM", "DPM Multi", "UniPC")),
    ],
)
@pytest.mark.parametrize(("tensors", "metadata", "config"), FILES.values(), ids=FILES)
def test_a_marked_single_file_paints_as_stock_with_its_configuration(
    tensors: tuple[str, ...],
    metadata: dict[str, str],
    config: dict[str, object],
    strength: float,
    scheduler: str,
    checkpoint: Callable[[int], Path],
    tmp_path: Path,
    request_for: Make,
) -> None:
    """F9: NoobAI-XL v-pred and its kin are handed round as one file, without a folder that says so."""
    marks = {name: torch.zeros(0) for name in tensors}
    save_file({**original_tensors(checkpoint(9)), **marks}, tmp_path / "x.safetensors", metadata)
    model = load_model(tmp_path / "x.safetensors", "x", CPU, torch.float32, configs=checkpoint(9))
    request = request_for(**PLAIN, scheduler=scheduler, strength=strength, num_inference_steps=6, seed=5)
    ours = painted(model, request)
    torch.testing.assert_close(ours, oracle(model, request, config), rtol=0, atol=1e-4)
    assert (ours - oracle(model, request, {})).abs().max() > 0.02, "as epsilon it is another picture"


@pytest.mark.slow
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_sampler_paints_a_model_of_zero_terminal_snr(
    scheduler: str, checkpoint: Callable[[int], Path], request_for: Make
) -> None:
    """At strength 1 the first step is pure noise, whose division by a signal of zero must not be made."""
    model = load_model(checkpoint(9), "x", CPU, torch.float32, predicts="v-zsnr")
    picture = painted(model, request_for(**PLAIN, scheduler=scheduler, strength=1.0, num_inference_steps=6))
    assert picture.isfinite().all()
    assert picture.std() > 0.01


def as_folder(checkpoint: Path, target: Path, config: dict[str, object]) -> Path:
    shutil.copytree(checkpoint, target)
    path = target / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return target


@pytest.mark.parametrize(
    ("config", "told", "same_as"),
    [({}, "v", V), ({}, "v-zsnr", V_ZSNR), (V, "epsilon", {}), (V, None, V), ({}, "epsilon", {})],
)
def test_what_is_said_of_a_model_is_what_it_paints(
    config: dict[str, object],
    told: str | None,
    same_as: dict[str, object],
    checkpoint: Callable[[int], Path],
    tmp_path: Path,
    request_for: Make,
) -> None:
    """predicts= of Engine.load, and of an import: then nothing need be said when it paints."""
    folder = as_folder(checkpoint(9), tmp_path / "given", config)
    expected = as_folder(checkpoint(9), tmp_path / "expected", same_as)
    import_model(folder, "mine", tmp_path / "models", predicts=told)
    stored = resolve("mine", tmp_path / "models").path
    pictures = []
    for path, options in ((folder, {"predicts": told}), (stored, {}), (expected, {})):
        with Engine.load(path, device="cpu", **options) as engine:
            pictures.append(np.asarray(engine.paint(request_for(seed=5)).images[0]))
    assert (pictures[0] == pictures[2]).all()
    assert (pictures[1] == pictures[2]).all()


def test_a_word_that_is_no_prediction_is_the_callers_error(checkpoint: Callable[[int], Path]) -> None:
    """Not a damaged model: the message lists the three."""
    for load in (
        lambda: load_model(checkpoint(9), "x", CPU, torch.float32, predicts="velocity"),
        lambda: Engine.load(checkpoint(9), device="cpu", predicts="velocity"),
        lambda: Engine.load("demo", device="cpu", predicts="velocity"),
    ):
        with pytest.raises(RequestError, match="predicts: must be one of epsilon, v, v-zsnr"):
            load()
