"""The prediction type of a checkpoint: noise (epsilon) or velocity (v), with or without zero terminal SNR.

A folder says so in its scheduler_config.json. A single file has marks, which differ from tool to tool:
``v_pred`` and ``ztsnr`` are empty tensors of NoobAI-XL that ComfyUI, Forge and AUTOMATIC1111 read; Stability
AI's ModelSpec has ``modelspec.prediction_type``, of which ComfyUI writes ``modelspec.predict_key``; kohya's
sd-scripts write ``ss_v_parameterization`` and ``ss_zero_terminal_snr``. Many files have no mark, so a caller
may say it. Source of zero terminal SNR: Lin et al., "Common Diffusion Noise Schedules and Sample Steps are
Flawed", 2024.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from inpaint.errors import RequestError, shown
from inpaint.weights.header import check_safetensors, read_json, refuse

Prediction = Literal["epsilon", "v", "v-zsnr"]
PREDICTIONS: tuple[str, ...] = get_args(Prediction)
SINGLE_FILE = "model.safetensors"  # the name of every single-file checkpoint in the store
SCHEDULER_FILE = "scheduler_config.json"  # next to it, what its import was told

_KEPT = "_inpaint_import"  # in a configuration that an import wrote: the marks of the weights do not count
_V = frozenset({"v", "v_prediction", "v-prediction", "v_pred", "vpred", "velocity"})
_EPSILON = frozenset({"epsilon", "eps", "noise"})
_TYPE_KEYS = ("modelspec.prediction_type", "modelspec.predict_key", "prediction_type")
_V_KEYS = ("ss_v_parameterization", "v_parameterization", "v_pred")
_ZERO_SNR_KEYS = ("ss_zero_terminal_snr", "zero_terminal_snr", "ztsnr")
_FALSE = frozenset({"", "false", "0", "none", "null"})
_TOLD = "say what it predicts with --predicts"

_ZERO_SNR: Mapping[str, object] = {
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",  # else the step of pure noise is never taken, see Lin et al., section 3.3
}
# What is put over a scheduler_config.json.
_SETTINGS: Mapping[str, Mapping[str, object]] = {
    # Where there is noise only, a prediction of noise says nothing: so without zero terminal SNR.
    "epsilon": {"prediction_type": "epsilon", "rescale_betas_zero_snr": False},
    "v": {"prediction_type": "v_prediction"},
    "v-zsnr": {"prediction_type": "v_prediction", **_ZERO_SNR},
}


def check_prediction(told: str | None) -> None:
    """Check what a caller says that a model predicts.

    Raises:
        RequestError: it is not one of ``PREDICTIONS``.
    """
    if told is not None and told not in PREDICTIONS:
        raise RequestError("predicts", f"must be one of {', '.join(PREDICTIONS)}, not {shown(told)}")


def settings_of_file(
    path: Path, header: Mapping[str, Any] | None = None, told: str | None = None
) -> Mapping[str, object]:
    """Return what a single file changes in SDXL's scheduler_config.json.

    Args:
        path: a ``.safetensors`` file. In the store, the settings of its import lie next to it.
        header: its header, if it was read already.
        told: one of ``PREDICTIONS``, which overrules the file; None if the file decides.

    Raises:
        ModelError: its marks contradict each other, or mean something that no sampler here does.
        RequestError: ``told`` is not one of ``PREDICTIONS``.
    """
    check_prediction(told)
    header = check_safetensors(path) if header is None else header
    own = path.with_name(SCHEDULER_FILE)
    if path.name == SINGLE_FILE and own.is_file() and _KEPT in (config := read_json(own)):
        check_scheduler(own, config)
        return {**_without_mark(config), **(_SETTINGS[told] if told else {})}
    if told == "v" and _zero_snr_marks(header):
        told = "v-zsnr"
    marked = told or _marked(path, header)
    return _SETTINGS[marked] if marked else {}


def settings_of_folder(folder: Path, told: str | None = None) -> Mapping[str, Any]:
    """Return a diffusers folder's scheduler_config.json, with what else says what its UNet predicts.

    Args:
        folder: a diffusers folder.
        told: one of ``PREDICTIONS``, which overrules the folder; None if the folder decides.

    Raises:
        ModelError: the folder is one that no sampler here can paint with, or it contradicts itself.
        RequestError: ``told`` is not one of ``PREDICTIONS``.
    """
    check_prediction(told)
    path = folder / "scheduler" / SCHEDULER_FILE
    config = read_json(path)
    check_scheduler(path, config)
    if told is not None:
        return {**config, **_SETTINGS[told]}
    if _KEPT in config:
        return _without_mark(config)
    unet = next(iter(sorted((folder / "unet").glob("*.safetensors"))), None)
    marked = None if unet is None else _marked(unet, check_safetensors(unet))
    given = config.get("prediction_type")
    if marked is None or given == _SETTINGS[marked]["prediction_type"]:
        return {**({} if marked is None else _SETTINGS[marked]), **config}
    if given is not None and unet is not None:
        refuse(path, f"it says {given!r} where {unet.name} is marked as predicting {marked}; {_TOLD}")
    return {**config, **_SETTINGS[marked]}


def kept(settings: Mapping[str, object]) -> Mapping[str, object]:
    """Return the scheduler_config.json of a new model, which says more than the marks of its weights."""
    return {**settings, _KEPT: True} if settings else {}


def _without_mark(config: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in config.items() if key != _KEPT}


# Samplers of one kind: the checkpoint of one can be painted with every other.
_SAMPLERS = frozenset(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
        "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete",
        "EulerDiscrete", "HeunDiscrete", "IPNDM", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LCM",
        "LMSDiscrete", "PNDM", "SASolver", "TCD", "UniPCMultistep",
    )
)  # fmt: skip


def check_scheduler(path: Path, config: Mapping[str, Any], class_name: object = None) -> None:
    """Check that a model was trained as SDXL was, so that the samplers here can paint with it.

    Args:
        path: the file that says so, for the error.
        config: a scheduler_config.json.
        class_name: the scheduler's class; the config's if None.

    Raises:
        ModelError: the model was trained for EDM, for flow matching, or for something unknown.
    """
    name = class_name or config.get("_class_name") or "DDIMScheduler"
    predicts = config.get("prediction_type", "epsilon")
    if "EDM" in str(name) or str(name).startswith("Cosine") or "sigma_data" in config:
        refuse(
            path,
            f"{name}: it is an EDM model, as Playground v2.5 and CosXL are, which no sampler here can paint",
        )
    if "FlowMatch" in str(name) or config.get("use_flow_sigmas") or "flow" in str(predicts):
        refuse(
            path,
            f"{name}: it was trained with flow matching, as SD 3 was, which no sampler here can paint",
        )
    if name not in _SAMPLERS:
        refuse(path, f"its scheduler {shown(name)} is of no kind that is known here")
    if predicts not in ("epsilon", "v_prediction", "sample"):
        refuse(path, f"prediction_type {shown(predicts)} is none of epsilon, v_prediction, sample")


def describe(config: Mapping[str, Any]) -> str:
    """Return what a model with this scheduler_config.json predicts, in words; empty for noise alone."""
    zero_snr = ", with zero terminal SNR" if config.get("rescale_betas_zero_snr") else ""
    predicts = config.get("prediction_type", "epsilon")
    if predicts == "v_prediction":
        return f"it predicts v (velocity){zero_snr}"
    if predicts == "sample":
        return f"it predicts the picture itself{zero_snr}"
    return f"it predicts noise{zero_snr}" if zero_snr else ""


def _marked(path: Path, header: Mapping[str, Any]) -> Prediction | None:
    """Return what the marks of a file say; None if it has none."""
    metadata = _metadata(header)
    zero_snr = _zero_snr_marks(header)
    said = {key: metadata[key].strip().casefold() for key in _TYPE_KEYS if key in metadata}
    said = {key: value for key, value in said.items() if value not in _FALSE}
    if strange := [key for key, value in said.items() if value not in _V | _EPSILON]:
        refuse(
            path,
            f"its metadata has {strange[0]} {shown(metadata[strange[0]])}, which is not known here; {_TOLD}",
        )
    for_v = [key for key, value in said.items() if value in _V] + _true(metadata, _V_KEYS)
    for_noise = [key for key, value in said.items() if value in _EPSILON]
    if "v_pred" in header:  # other programs go by the tensor alone
        return "v-zsnr" if zero_snr else "v"
    if for_v and for_noise:
        refuse(
            path, f"its metadata contradicts itself: {for_v[0]} says v, {for_noise[0]} says epsilon; {_TOLD}"
        )
    if for_v:
        return "v-zsnr" if zero_snr else "v"
    if zero_snr:
        refuse(
            path,
            f"it is marked for zero terminal SNR ({zero_snr[0]}) and not for v, and noise cannot be "
            "predicted from noise alone; say --predicts v, or --predicts epsilon to paint it without "
            "zero terminal SNR",
        )
    return "epsilon" if for_noise else None


def _zero_snr_marks(header: Mapping[str, Any]) -> list[str]:
    return [name for name in ("ztsnr",) if name in header] + _true(_metadata(header), _ZERO_SNR_KEYS)


def _metadata(header: Mapping[str, Any]) -> Mapping[str, str]:
    found = header.get("__metadata__")
    return {key: str(value) for key, value in found.items()} if isinstance(found, dict) else {}


def _true(metadata: Mapping[str, str], keys: tuple[str, ...]) -> list[str]:
    return [key for key in keys if metadata.get(key, "").strip().casefold() not in _FALSE]
