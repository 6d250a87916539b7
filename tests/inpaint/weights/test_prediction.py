"""What a checkpoint says that it predicts, in every mark in use, and what a caller says of it."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from inpaint.errors import ModelError, RequestError
from inpaint.weights import Checkpoint, import_completed, import_model, merge_models, notes, resolve
from inpaint.weights.prediction import describe, settings_of_file, settings_of_folder
from tests.support.checkpoint_files import safetensors, sdxl_tensors, write_folder
from tests.support.single_file import original_tensors
from tests.support.tiny_checkpoint import write_tiny_checkpoint

V = {"prediction_type": "v_prediction"}
V_ZSNR = {**V, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
EPSILON = {"prediction_type": "epsilon", "rescale_betas_zero_snr": False}
UNET = Path("unet") / "diffusion_pytorch_model.safetensors"

# Marks of a single file (tensors, metadata), what its caller says, and what is put over SDXL's
# scheduler_config.json.
MARKS: dict[str, tuple[tuple[str, ...], dict[str, str], str | None, Mapping[str, object]]] = {
    "none": ((), {}, None, {}),
    "NoobAI's v_pred": (("v_pred",), {}, None, V),
    "NoobAI's v_pred and ztsnr": (("v_pred", "ztsnr"), {}, None, V_ZSNR),
    "ModelSpec v": ((), {"modelspec.prediction_type": "v"}, None, V),
    "ModelSpec in words": ((), {"modelspec.prediction_type": "V_prediction"}, None, V),
    "ModelSpec epsilon": ((), {"modelspec.prediction_type": "epsilon"}, None, EPSILON),
    "ComfyUI's predict_key v": ((), {"modelspec.predict_key": "v"}, None, V),
    "ComfyUI's predict_key epsilon": ((), {"modelspec.predict_key": "epsilon"}, None, EPSILON),
    "ComfyUI's v_pred and predict_key": (("v_pred", "ztsnr"), {"modelspec.predict_key": "v"}, None, V_ZSNR),
    "a trainer's prediction_type": ((), {"prediction_type": "v_prediction"}, None, V),
    "a trainer's velocity": ((), {"modelspec.prediction_type": "velocity"}, None, V),
    "kohya's v_parameterization": ((), {"ss_v_parameterization": "True"}, None, V),
    "kohya's no v_parameterization": ((), {"ss_v_parameterization": "False"}, None, {}),
    "kohya's None": ((), {"ss_v_parameterization": "None", "ss_zero_terminal_snr": "None"}, None, {}),
    "kohya's zero SNR": ((), {"ss_v_parameterization": "True", "ss_zero_terminal_snr": "True"}, None, V_ZSNR),
    "kohya's v, ModelSpec's v": (
        (), {"ss_v_parameterization": "True", "modelspec.prediction_type": "v"}, None, V,
    ),
    "v_pred with stale metadata": (("v_pred",), {"modelspec.prediction_type": "epsilon"}, None, V),
    "nothing said, told v": ((), {}, "v", V),
    "nothing said, told v-zsnr": ((), {}, "v-zsnr", V_ZSNR),
    "nothing said, told epsilon": ((), {}, "epsilon", EPSILON),
    "v_pred, told epsilon": (("v_pred", "ztsnr"), {}, "epsilon", EPSILON),
    "epsilon, told v": ((), {"modelspec.prediction_type": "epsilon"}, "v", V),
    "ztsnr alone, told v": (("ztsnr",), {}, "v", V_ZSNR),
    "ztsnr alone, told epsilon": (("ztsnr",), {}, "epsilon", EPSILON),
    "a contradiction, told v": (
        (), {"prediction_type": "v", "modelspec.prediction_type": "epsilon"}, "v", V,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "metadata", "told", "expected"), MARKS.values(), ids=MARKS)
def test_every_mark_in_use_is_read(
    tmp_path: Path,
    tensors: tuple[str, ...],
    metadata: dict[str, str],
    told: str | None,
    expected: Mapping[str, object],
) -> None:
    """A v-prediction model that is sampled as if it predicted noise paints noise, without an error."""
    path = write_marked(tmp_path / "x.safetensors", tensors, metadata)
    assert settings_of_file(path, told=told) == expected
    import_model(path, "mine", tmp_path / "models", predicts=told)
    found = resolve("mine", tmp_path / "models")
    assert without_class(settings_of_file(found.path)) == expected, "it is imported with what it was told"


def write_marked(path: Path, tensors: tuple[str, ...] = (), metadata: dict[str, str] | None = None) -> Path:
    path.write_bytes(safetensors({**sdxl_tensors(4), **{name: [0] for name in tensors}}, metadata))
    return path


def without_class(settings: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in settings.items() if key != "_class_name"}


REFUSED: dict[str, tuple[tuple[str, ...], dict[str, str], str]] = {
    "ztsnr alone": (("ztsnr",), {}, r"zero terminal SNR \(ztsnr\) and not for v.* --predicts epsilon"),
    "kohya's zero SNR alone": ((), {"ss_zero_terminal_snr": "True"}, r"SNR \(ss_zero_terminal_snr\)"),
    "ztsnr, ModelSpec epsilon": (("ztsnr",), {"modelspec.prediction_type": "epsilon"}, "marked for"),
    "two answers": (
        (), {"modelspec.prediction_type": "epsilon", "ss_v_parameterization": "True"},
        r"ss_v_parameterization says v, modelspec\.prediction_type says epsilon; say what .* --predicts",
    ),
    "two keys": ((), {"modelspec.predict_key": "v", "prediction_type": "epsilon"}, "contradicts itself"),
    "a flow": ((), {"modelspec.prediction_type": "rf"}, r"has modelspec\.prediction_type 'rf'"),
    "a sample": ((), {"prediction_type": "sample"}, r"has prediction_type 'sample'"),
    "EDM": (("edm_mean", "edm_std"), {}, "it is an EDM model"),
    "CosXL": (("edm_vpred.sigma_max",), {}, "it is an EDM model, as Playground v2.5 and CosXL are"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "metadata", "words"), REFUSED.values(), ids=REFUSED)
def test_marks_without_one_meaning_are_refused_by_name(
    tmp_path: Path, tensors: tuple[str, ...], metadata: dict[str, str], words: str
) -> None:
    """Never silently another picture: the sentence names the mark and the way out."""
    path = write_marked(tmp_path / "x.safetensors", tensors, metadata)
    for attempt in (lambda: import_model(path, "mine", tmp_path / "models"), lambda: resolve(path, tmp_path)):
        with pytest.raises(ModelError, match=rf"x\.safetensors: .*{words}"):
            attempt()


@pytest.mark.parametrize("told", ["", "V", "eps", "v_prediction", "v,epsilon"])
def test_another_word_for_a_prediction_is_refused(tmp_path: Path, told: str) -> None:
    """A typo lists what would do, before anything is copied."""
    path, folder = write_marked(tmp_path / "x.safetensors"), write_folder(tmp_path / "given")
    for given in (path, folder):
        with pytest.raises(RequestError, match="predicts: must be one of epsilon, v, v-zsnr, not"):
            import_model(given, "mine", tmp_path / "models", predicts=told)
    assert not (tmp_path / "models").exists()


# A folder's scheduler_config.json, the metadata of its UNet, what its caller says, and what results.
FOLDERS: dict[str, tuple[dict[str, object], dict[str, str], str | None, Mapping[str, object]]] = {
    "nothing said": ({}, {}, None, {}),
    "its configuration": (V_ZSNR, {}, None, V_ZSNR),
    "zero SNR with noise, as stock has it": ({**EPSILON, "rescale_betas_zero_snr": True}, {}, None,
                                             {**EPSILON, "rescale_betas_zero_snr": True}),
    "the UNet's file": ({}, {"modelspec.prediction_type": "v"}, None, V),
    "both": (V, {"modelspec.prediction_type": "v"}, None, V),
    "told v": ({"prediction_type": "epsilon"}, {}, "v", V),
    "told v of zero SNR": (
        {**EPSILON, "rescale_betas_zero_snr": True}, {}, "v", {**V, "rescale_betas_zero_snr": True},
    ),
    "told v-zsnr": (V, {}, "v-zsnr", V_ZSNR),
    "told epsilon": (V_ZSNR, {}, "epsilon", {**EPSILON, "timestep_spacing": "trailing"}),
    "told v, marked epsilon": ({}, {"modelspec.prediction_type": "epsilon"}, "v", V),
}  # fmt: skip


@pytest.mark.parametrize(("config", "metadata", "told", "expected"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_says_it_too_and_is_overruled(
    tmp_path: Path,
    config: dict[str, object],
    metadata: dict[str, str],
    told: str | None,
    expected: Mapping[str, object],
) -> None:
    """What an import was told is in the imported model's scheduler_config.json."""
    folder = write_folder(tmp_path / "given")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    (folder / UNET).write_bytes(safetensors(metadata=metadata))
    assert settings_of_folder(folder, told) == expected
    target = import_model(folder, "mine", tmp_path / "models", predicts=told)
    assert settings_of_folder(target) == expected


def test_a_configuration_from_elsewhere_does_not_speak_for_a_single_file(tmp_path: Path) -> None:
    """Only an import writes one that counts; a downloaded one may belong to another file."""
    path = write_marked(tmp_path / "model.safetensors", ("v_pred",))
    (tmp_path / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    assert settings_of_file(path) == V


def test_a_folder_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    """A conversion that lost the marks of its single file is better named than painted."""
    folder = write_folder(tmp_path / "given")
    (folder / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "epsilon"}')
    (folder / UNET).write_bytes(safetensors(metadata={"modelspec.prediction_type": "v"}))
    with pytest.raises(ModelError, match=r"it says 'epsilon' where .* is marked as predicting v; say what"):
        resolve(folder, tmp_path)
    assert resolve(folder, tmp_path, predicts="v").kind == "folder"


# Schedulers of folders that no sampler here can stand for, or whose settings mean another training.
OTHER_TRAININGS: dict[str, tuple[str, dict[str, object], str]] = {
    "Playground v2.5": ("EDMEulerScheduler", {}, "it is an EDM model, as Playground v2.5"),
    "EDM's multistep": ("EDMDPMSolverMultistepScheduler", {"sigma_data": 0.5}, "it is an EDM model"),
    "Stable Audio's": ("CosineDPMSolverMultistepScheduler", {}, "it is an EDM model"),
    "EDM by its settings": ("EulerDiscreteScheduler", {"sigma_data": 0.5}, "it is an EDM model"),
    "SD 3's": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, "trained with flow matching"),
    "flow by Heun": ("FlowMatchHeunDiscreteScheduler", {}, "trained with flow matching"),
    "flow by its settings": ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "flow matching"),
    "flow by its prediction": (
        "DPMSolverMultistepScheduler",
        {"prediction_type": "flow_prediction"},
        "flow matching",
    ),
    "a consistency model": ("CMStochasticIterativeScheduler", {}, "is of no kind that is known here"),
    "Würstchen's": ("DDPMWuerstchenScheduler", {}, "is of no kind that is known here"),
    "another prediction": (
        "DDIMScheduler",
        {"prediction_type": "x0"},
        "prediction_type 'x0' is none of epsilon",
    ),
}


@pytest.mark.parametrize("told", [None, "epsilon"])
@pytest.mark.parametrize(("name", "config", "words"), OTHER_TRAININGS.values(), ids=OTHER_TRAININGS)
def test_a_folder_of_another_training_is_refused_by_name(
    name: str, config: dict[str, object], words: str, told: str | None, tmp_path: Path
) -> None:
    """Painted as SDXL it would give another picture without a word; --predicts does not help it."""
    folder = write_folder(tmp_path / "given")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": name, **config}))
    with pytest.raises(ModelError, match=words):
        import_model(folder, "mine", tmp_path / "models", predicts=told)
    with pytest.raises(ModelError, match=words):
        resolve(folder, tmp_path)
    if name != "EulerDiscreteScheduler" and not config:  # the index alone says it as well
        index = json.loads((folder / "model_index.json").read_text())
        (folder / "model_index.json").write_text(json.dumps({**index, "scheduler": ["diffusers", name]}))
        (folder / "scheduler" / "scheduler_config.json").write_text("{}")
        with pytest.raises(ModelError, match=words):
            resolve(folder, tmp_path)


@pytest.mark.parametrize(
    "name", ["DDIM", "PNDM", "LCM", "TCD", "DEISMultistep", "DPMSolverSDE", "EulerAncestralDiscrete"]
)
def test_samplers_of_sdxls_kind_are_taken(name: str, tmp_path: Path) -> None:
    """A folder may be saved with any sampler that can stand for SDXL's own."""
    folder = write_folder(tmp_path / "given")
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps({"_class_name": f"{name}Scheduler"})
    )
    assert resolve(folder, tmp_path).kind == "folder"


def test_what_a_file_predicts_wins_over_the_donor_of_its_parts(
    checkpoint: Callable[[int], Path], tmp_path: Path
) -> None:
    """A v-prediction UNet that is completed from sdxl-inpainting still predicts v, and a noise one noise."""
    import torch
    from safetensors.torch import save_file

    tensors = {k: t for k, t in original_tensors(checkpoint(4)).items() if k.startswith("model.")}
    v_donor = Path(shutil.copytree(checkpoint(9), tmp_path / "v-donor"))
    config = v_donor / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **V}))
    cases = {
        "marked": ({"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, checkpoint(9), None, V_ZSNR),
        "told": ({}, checkpoint(9), "v", V),
        "plain": ({}, v_donor, None, EPSILON),
    }
    for name, (marks, donor, told, expected) in cases.items():
        save_file({**tensors, **marks}, tmp_path / f"{name}.safetensors")
        path = tmp_path / f"{name}.safetensors"
        target = import_completed(path, donor, name, tmp_path / "models", predicts=told)
        assert expected.items() <= settings_of_folder(target).items(), name


def test_a_merge_keeps_what_its_models_predict(tmp_path: Path) -> None:
    """The merged file has no room for metadata marks; its configuration is written next to it."""
    from safetensors.torch import save_file

    three = []
    for name, channels in (("inpaint", 9), ("style", 4), ("base", 4)):
        folder = write_tiny_checkpoint(tmp_path / name, channels, seed=channels + len(name))
        path = tmp_path / f"{name}.safetensors"
        save_file(
            original_tensors(folder), path, {"modelspec.prediction_type": "v"} if name != "base" else {}
        )
        three.append(Checkpoint(name, path, "file"))
    with pytest.raises(
        ModelError, match=r"style v_prediction, base epsilon; .* say what all three predict with"
    ):
        merge_models(*three, "mine", tmp_path / "models")
    merged = merge_models(*three, "mine", tmp_path / "models", predicts="v")
    assert settings_of_file(merged.folder / "model.safetensors") == V
    assert notes(merged.folder) == ["it predicts v (velocity)"]


NOTES: dict[str, tuple[dict[str, object], dict[str, object], list[str]]] = {
    "SDXL as it is": ({"_class_name": "EulerDiscreteScheduler"}, {}, []),
    "zero SNR": (
        V_ZSNR, {},
        ["it predicts v (velocity), with zero terminal SNR", "its timesteps are spaced 'trailing', as"],
    ),
    "linspace": ({"timestep_spacing": "linspace"}, {}, ["its timesteps are spaced 'linspace', as"]),
    "Karras": (
        {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True}, {},
        ["its own DPMSolverMultistepScheduler is not used (use_karras_sigmas): each picture names its"],
    ),
    "SDE": ({"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"}, {},
            ["its own sampler is not used (final_sigmas_type, algorithm_type)"]),
    "an image encoder": (
        {}, {"image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
             "feature_extractor": ["transformers", "CLIPImageProcessor"]},
        ["left out, since painting uses none of it: feature_extractor, image_encoder"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("config", "index", "expected"), NOTES.values(), ids=NOTES)
def test_an_import_says_what_is_honoured_and_what_is_overruled(
    config: dict[str, object], index: dict[str, object], expected: list[str], tmp_path: Path
) -> None:
    """A user who chose Karras sigmas in another program learns where they are chosen here."""
    folder = write_folder(tmp_path / "given")
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    written = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**written, **index}))
    said = notes(import_model(folder, "mine", tmp_path / "models"))
    assert len(said) == len(expected)
    assert all(note.startswith(words) for note, words in zip(said, expected, strict=True)), said


def test_a_prediction_is_described_in_words() -> None:
    """Nothing is said of a model that predicts noise, as nearly all do."""
    assert describe({}) == describe(EPSILON) == ""
    assert describe({"prediction_type": "sample"}) == "it predicts the picture itself"
    assert describe({"rescale_betas_zero_snr": True}) == "it predicts noise, with zero terminal SNR"
