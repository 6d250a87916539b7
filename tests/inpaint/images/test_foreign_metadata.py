"""What InvokeAI, ComfyUI, Fooocus, SwarmUI and NovelAI write into pictures, and names of samplers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inpaint import InpaintRequest
from inpaint.images.exif import EXIF_IFD, USER_COMMENT
from inpaint.images.foreign_metadata import comfyui
from inpaint.images.foreign_metadata.samplers import nearest_scheduler, scheduler_for
from inpaint.images.made import Made
from inpaint.images.metadata import read
from inpaint.schedulers import SCHEDULERS
from tests.support.cli_runs import Run
from tests.support.examples import examples
from tests.support.metadata_samples import BLANK, chunks, file_of
from tools.files.metadata_samples import NEGATIVE, PROMPT, SAID, Sample, a1111, samples

pytest_plugins = ["tests.support.cli_fixtures"]

SAMPLES = {sample.kind: sample for sample in samples()}
FOOOCUS, SWARM, INVOKE, NOVEL = "Fooocus' own scheme", "SwarmUI", "InvokeAI 5", "NovelAI 3"


def png(texts: dict[str, str]) -> bytes:
    return file_of(BLANK, "PNG", pnginfo=chunks(texts))


def made(texts: dict[str, str]) -> Made:
    """Read a PNG that has a text of some program."""
    found = read(png(texts))
    assert found is not None
    return found


def left_out(found: Made) -> list[str]:
    return [each.problem for each in found.left_out]


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_a_picture_of_another_program_gives_its_settings(sample: Sample) -> None:
    """A user who changes programs can paint on from old pictures; nothing is replaced without a word."""
    found = made(dict(sample.texts))
    assert found.settings == sample.says
    assert tuple(each.field for each in found.left_out) == sample.left_out
    assert (found.tool, found.model, found.version) == (sample.tool, sample.model, None)
    InpaintRequest(image=BLANK, mask=BLANK, **found.settings)


@pytest.mark.parametrize("format_", ["JPEG", "WEBP"])
@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le", "utf-16", "utf-8"])
@pytest.mark.parametrize("kind", [FOOOCUS, SWARM, "A1111 1.10"])
def test_a_comment_in_exif_says_the_same(kind: str, order: str, format_: str) -> None:
    """SwarmUI and others put into a comment of a JPEG what a PNG has as a text."""
    tags = Image.Exif()
    code = b"ASCII\0\0\0" if order == "utf-8" else b"UNICODE\0"
    tags.get_ifd(EXIF_IFD)[USER_COMMENT] = code + SAMPLES[kind].texts["parameters"].encode(order)
    found = read(file_of(BLANK, format_, exif=tags))
    assert found is not None
    assert found.settings == SAMPLES[kind].says


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", [FOOOCUS, SWARM, INVOKE, NOVEL, "ComfyUI, KSampler", "A1111 1.10"])
def test_three_megabytes_of_text_are_no_error(kind: str, packed: bool) -> None:
    """A text of that length holds no settings of a person; next to it, the others are still read."""
    sample = SAMPLES[kind]
    texts, huge = PngInfo(), "x" * 3_000_000
    for name, text in sample.texts.items():
        texts.add_text(name, text)
    texts.add_text("caption", huge, zip=packed)
    found = read(file_of(BLANK, "PNG", pnginfo=texts))
    assert found is not None
    assert found.settings == sample.says
    whole = PngInfo()
    for name, text in sample.texts.items():
        whole.add_text(name, text.replace(PROMPT, huge), zip=packed)
    assert isinstance(read(file_of(BLANK, "PNG", pnginfo=whole)), Made | None)


def test_texts_in_other_fields_of_exif_are_found() -> None:
    """ComfyUI puts its graph into the camera's model, Fooocus its comment into the first directory, and a
    WebP of NovelAI has all texts as one object."""
    graph, fooocus, novel = SAMPLES["ComfyUI, KSampler"], SAMPLES[FOOOCUS], SAMPLES[NOVEL]
    wrapped = json.dumps({"Comment": novel.texts["Comment"], "Software": "NovelAI"})
    for tag, text, says in (
        (0x0110, "prompt:" + graph.texts["prompt"], graph.says),
        (0x010F, "Prompt: " + graph.texts["prompt"], graph.says),
        (USER_COMMENT, fooocus.texts["parameters"], fooocus.says),
        (USER_COMMENT, wrapped, novel.says),
    ):
        tags = Image.Exif()
        tags[tag] = text
        found = read(file_of(BLANK, "WEBP", exif=tags))
        assert found is not None
        assert found.settings == says


# Samplers.


@pytest.mark.parametrize(
    ("sampler", "schedule", "ours", "is_said"),
    [
        ("DPM++ 2M", "Karras", "DPM Multi Karras", False),
        ("DPM++ 2M Karras", "", "DPM Multi Karras", False),
        ("DPM++ 2M Karras", "Automatic", "DPM Multi Karras", False),
        ("DPM++ 2M", "Automatic", "DPM Multi Karras", False),
        ("DPM++ 2M", "Uniform", "DPM Multi", False),
        ("DPM++ 2M", "SGM Uniform", "DPM Multi", True),
        ("DPM++ 2M", "Align Your Steps", "DPM Multi", True),
        ("DPM++ 2M Exponential", "", "DPM Multi", True),
        ("DPM++ 2M SDE", "Karras", "DPM Multi SDE Karras", False),
        ("DPM++ 2M SDE Heun", "Karras", None, True),
        ("DPM++ SDE", "SGM Uniform", None, True),
        ("DPM++ 2S a", "Karras", None, True),
        ("DPM++ 3M SDE", "Exponential", None, True),
        ("Restart", "", None, True),
        ("LCM", "Automatic", None, True),
        ("DPM2 Karras", "Karras", "DPM2 Karras", False),
        ("DPM2", "Karras", "DPM2 Karras", False),
        ("DPM2", "Automatic", "DPM2 Karras", False),
        ("DPM2", "", "DPM2 Karras", True),
        ("DPM2 a", "Karras", "DPM2 a Karras", False),
        ("Euler", "Automatic", "Euler", False),
        ("Euler Karras", "", "Euler", True),
        ("PLMS", "", "PNDM", False),
        ("euler_ancestral", "normal", "Euler a", False),
        ("euler_ancestral_karras", "", "Euler a", True),
        ("Euler a_normal", "", "Euler a", False),
        ("dpmpp_2m_karras", "", "DPM Multi Karras", False),
        ("dpmpp_2m_sde_gpu", "karras", "DPM Multi SDE Karras", False),
        ("dpmpp_2m_sde_gpu_karras", "", "DPM Multi SDE Karras", False),
        ("dpmpp_2m", "sgm_uniform", "DPM Multi", True),
        ("dpmpp_2s_ancestral", "karras", None, True),
        ("dpm_2", "karras", "DPM2 Karras", False),
        ("dpm_2_ancestral", "karras", "DPM2 a Karras", False),
        ("ddim", "ddim_uniform", "DDIM", False),
        ("uni_pc", "simple", "UniPC", False),
        ("lms", "beta", "LMS", True),
        ("dpmpp_2s_k", "", "DPM Single Karras", False),
        ("kdpm_2_a_k", "", "DPM2 a Karras", False),
        ("kdpm_2", "", "DPM2 Karras", True),
        ("euler_k", "", "Euler", True),
        ("unipc", "", "UniPC", False),
        ("k_euler_ancestral", "native", "Euler a", False),
        ("k_dpmpp_2m", "karras", "DPM Multi Karras", False),
        ("ddim_v3", "", None, True),
        ("no such " * 1000, "k" * 1000, None, True),
    ],
)
def test_a_sampler_is_known_by_its_names_elsewhere(
    sampler: str, schedule: str, ours: str | None, is_said: bool
) -> None:
    """A picture is painted again with the same sampler, or the user is told what differs."""
    found, problem = scheduler_for(sampler, schedule)
    assert found == ours
    assert (problem is not None) == is_said
    assert len(problem or "") < 250


@pytest.mark.parametrize("name", [name for o, s in SCHEDULERS.items() for name in (o, *s.known_as)])
def test_every_name_in_the_table_is_found(name: str) -> None:
    """A sampler is added with one row; it is then read from pictures as well."""
    found, problem = scheduler_for(name)
    assert found is not None
    assert problem is None
    assert name in (found, *SCHEDULERS[found].known_as)


@pytest.mark.parametrize(
    ("sampler", "schedule", "ours"),
    [
        ("DPM++ SDE", "karras", "DPM Single Karras"),
        ("DPM++ SDE Karras", "automatic", "DPM Single Karras"),
        ("DPM++ 2S a", "automatic", "DPM Single Karras"),
        ("k_dpmpp_2s_a", "normal", "DPM Single"),
        ("DPM++ 3M SDE Exponential", "", "DPM Multi SDE"),
        ("DPM++ 2M SDE Heun", "karras", "DPM Multi SDE Karras"),
        ("DPM fast", "", "DPM Single"),
        ("uni_pc_bh2", "sgm_uniform", "UniPC"),
        ("DDIM CFG++", "ddim", "DDIM"),
        ("HeunPP2", "", "Heun"),
        ("Restart", "automatic", "Euler"),
        ("LCM", "sgm_uniform", "Euler"),
        ("IPNDM_V", "", "PNDM"),
        ("DEIS", "beta", "DPM Multi"),
        ("LMS Karras", "", "LMS"),
        ("no such " * 1000, "k" * 1000, "DPM Multi"),
        ("", "", "DPM Multi"),
    ],
)
def test_a_sampler_that_we_lack_has_a_nearest_one(sampler: str, schedule: str, ours: str) -> None:
    """A web UI's client gets a picture for every name; A1111 paints an unknown one with its first sampler."""
    assert nearest_scheduler(sampler, schedule) == ours


# Numbers and texts of a wrong kind.


@pytest.mark.parametrize(
    ("seed", "read_as", "is_said"),
    [
        (0, 0, False),
        (999_999_999_999_999, 999_999_999_999_999, False),
        ("12", 12, False),
        (5.0, 5, False),
        (10**15, None, True),
        (2**64 - 1, None, True),
        (str(2**64 - 1), None, True),
        (-2, None, True),
        (10**400, None, True),
        ("1e400", None, True),
        ("many", None, True),
        ("", None, False),
        (True, None, False),
        (None, None, False),
        ([7], None, False),
        ({"seed": 7}, None, False),
    ],
)
def test_a_seed_is_taken_as_it_is_or_not_at_all(seed: object, read_as: int | None, is_said: bool) -> None:
    """The nearest seed that we have paints another picture."""
    settings = json.loads(SAMPLES[FOOOCUS].texts["parameters"]) | {"seed": seed}
    found = made({"parameters": json.dumps(settings)})
    assert found.settings.get("seed") == read_as
    assert [each.field for each in found.left_out] == ["seed"] * is_said
    assert found.settings["prompt"] == PROMPT


@pytest.mark.parametrize(
    ("text", "field", "value", "said"),
    [
        (("Steps: 30", "Steps: 500"), "num_inference_steps", 150, "its steps 500 is outside 1 to 150"),
        (("CFG scale: 6.5", "CFG scale: 99"), "guidance_scale", 50.0, "its guidance 99 is outside 0 to 50"),
        (("Seed: 12345", "Seed: -7"), "seed", None, "its seed -7 is outside -1 to 999999999999999"),
        (("Seed: 12345", "Denoising strength: 0"), "strength", None, "its strength 0 is outside 0 to 1"),
        (("Steps: 30", "Steps: nan"), "num_inference_steps", None, "its steps 'nan' is no number"),
        (("Seed: 12345", "Mask blur: 999"), "feather", 256, "its feather 2498 is outside 0 to 256"),
        (("a red circle", "x" * 10_001), "prompt", None, "must have at most 10000 characters"),
        (("(soft light:1.2)", "(soft light:101)"), "prompt", None, "must be a number from -100 to 100"),
        (
            ("(soft light", "<lora:x:1:1>(soft light"),
            "loras",
            None,
            "its LoRAs are left out: <lora:x:1:1> must have",
        ),
        (("(soft light", "<lora:x:99>(soft light"), "prompt", PROMPT, "its LoRAs are left out: the scale of"),
    ],
)
def test_what_is_out_of_range_is_said(text: tuple[str, str], field: str, value: object, said: str) -> None:
    """No setting changes without a word."""
    found = made({"parameters": a1111("Euler").replace(*text)})
    assert found.settings.get(field) == value
    (problem,) = left_out(found)
    assert said in problem


@pytest.mark.parametrize("prompt", ["", "{a|b} {{c}}", "{", '"', "a\\nb", "猫 🐈", "a\tb", "x" * 9_000])
@pytest.mark.parametrize("kind", [FOOOCUS, SWARM, INVOKE, NOVEL])
def test_any_prompt_is_read(kind: str, prompt: str) -> None:
    """Braces, nothing at all, other scripts, and a very long one."""
    texts = {
        name: text.replace(json.dumps(PROMPT)[1:-1], json.dumps(prompt)[1:-1])
        for name, text in SAMPLES[kind].texts.items()
    }
    assert made(texts).settings["prompt"] == prompt


@pytest.mark.parametrize("wrong", [None, 5, True, [], ["x"], {}, {"prompt": "x"}, "\ud800", "a\0b"])
@pytest.mark.parametrize("kind", [FOOOCUS, SWARM, INVOKE, NOVEL, "ComfyUI, KSampler"])
def test_a_value_of_a_wrong_type_costs_no_other(kind: str, wrong: object) -> None:
    """A stranger's file may hold anything in place of a prompt; the rest is still read."""
    texts = {
        name: text.replace(json.dumps(NEGATIVE), json.dumps(wrong))
        for name, text in SAMPLES[kind].texts.items()
    }
    found = made(texts)
    assert {name: found.settings[name] for name in ("prompt", "seed", "num_inference_steps")} == {
        name: SAID[name] for name in ("prompt", "seed", "num_inference_steps")
    }
    json.dumps(dict(found.settings), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": "{}"},
        {"parameters": "[]"},
        {"parameters": "null"},
        {"parameters": '{"prompt": "x"'},
        {"parameters": "{" * 100_000},
        {"parameters": '{"sui_image_params":' * 40_000},
        {"parameters": '{"prompt": ' + "[" * 100_000},
        {"prompt": "{}"},
        {"prompt": "a caption"},
        {"prompt": '{"1": 5}'},
        {"prompt": '{"1": {"class_type": "KSampler"}}'},
        {"prompt": '{"1": {"class_type": "LoadImage", "inputs": {"image": "x"}}}'},
        {"workflow": '{"nodes": []}'},
        {"Comment": "Created with GIMP"},
        {"Comment": "{}"},
        {"invokeai_metadata": "5"},
        {"invokeai_metadata": "{}"},
        {"Description": "a red circle", "Software": "NovelAI"},
    ],
)
def test_a_picture_that_says_nothing_is_no_error(texts: dict[str, str]) -> None:
    """Captions, other people's JSON, broken JSON, and JSON that is too deep."""
    assert read(png(texts)) is None


# ComfyUI's graph.


def graph(**nodes: tuple[str, dict[str, Any]]) -> dict[str, str]:
    return {
        "prompt": json.dumps({name: {"class_type": kind, "inputs": i} for name, (kind, i) in nodes.items()})
    }


KSAMPLER = {"seed": 5, "steps": 20, "cfg": 7, "sampler_name": "euler", "scheduler": "normal"}


def sampler_of(**inputs: Any) -> tuple[str, dict[str, Any]]:
    return "KSampler", KSAMPLER | inputs


GRAPHS: dict[str, tuple[dict[str, str], str | None]] = {
    "text": (graph(a=sampler_of(positive=["b", 0]), b=("CLIPTextEncode", {"text": "cat"})), "cat"),
    "two texts": (
        graph(a=sampler_of(positive=["b", 0]), b=("CLIPTextEncodeSDXL", {"text_g": "cat", "text_l": "hat"})),
        "cat, hat",
    ),
    "combined": (
        graph(
            a=sampler_of(positive=["b", 0]),
            b=("ConditioningCombine", {"conditioning_1": ["c", 0], "conditioning_2": ["d", 0]}),
            c=("CLIPTextEncode", {"text": "cat"}),
            d=("CLIPTextEncode", {"text": "hat"}),
        ),
        "cat, hat",
    ),
    "concatenated": (
        graph(
            a=sampler_of(positive=["b", 0]),
            b=("CLIPTextEncode", {"text": ["c", 0]}),
            c=("StringConcatenate", {"string_a": "cat", "string_b": ["d", 0], "delimiter": ", "}),
            d=("PrimitiveStringMultiline", {"value": "hat"}),
        ),
        "cat, hat",
    ),
    "control net": (
        graph(
            a=sampler_of(positive=["b", 0], negative=["b", 1]),
            b=("ControlNetApplyAdvanced", {"positive": ["c", 0], "negative": ["d", 0], "strength": 1}),
            c=("CLIPTextEncode", {"text": "cat"}),
            d=("CLIPTextEncode", {"text": "bad"}),
        ),
        "cat",
    ),
    "zeroed": (
        graph(
            a=sampler_of(positive=["b", 0]),
            b=("ConditioningZeroOut", {"conditioning": ["c", 0]}),
            c=("CLIPTextEncode", {"text": "cat"}),
        ),
        None,
    ),
    "cyclic": (
        graph(
            a=sampler_of(positive=["b", 0], seed=["b", 0], model=["a", 0], latent_image=["b", 0]),
            b=("Conditioning", {"conditioning": ["b", 0], "text": ["a", 0], "value": ["b", 0]}),
        ),
        None,
    ),
    "linked to nothing": (graph(a=sampler_of(positive=["z", 0], model=["z", 0])), None),
    "a link that is none": (graph(a=sampler_of(positive=["b", [1]], negative=[{}, 0], model=[])), None),
    "only a sampler": (graph(a=sampler_of()), None),
}


@pytest.mark.parametrize(("texts", "prompt"), GRAPHS.values(), ids=GRAPHS)
def test_a_graph_is_followed_along_its_links(texts: dict[str, str], prompt: str | None) -> None:
    """Standard nodes between a text and the sampler; loops and dangling links end."""
    found = made(texts)
    assert found.settings.get("prompt") == prompt
    assert {n: found.settings[n] for n in ("num_inference_steps", "guidance_scale", "scheduler")} == {
        "num_inference_steps": 20, "guidance_scale": 7.0, "scheduler": "Euler",
    }  # fmt: skip


def test_a_guider_without_a_negative_side_gives_none() -> None:
    """Its one conditioning is the prompt, and not what to avoid."""
    found = made(
        graph(
            a=("SamplerCustomAdvanced", {"guider": ["b", 0], "sampler": ["c", 0], "sigmas": ["d", 0]}),
            b=("BasicGuider", {"conditioning": ["e", 0]}),
            c=("SamplerLCMUpscale", {}),
            d=("BasicScheduler", {"scheduler": "simple", "steps": 8}),
            e=("CLIPTextEncode", {"text": "cat"}),
        )
    )
    assert found.settings == {"prompt": "cat", "num_inference_steps": 8}
    assert left_out(found) == ["its sampler 'SamplerLCMUpscale' is not one of ours"]


def test_a_long_chain_is_followed_without_recursion() -> None:
    """A graph of a hundred thousand nodes is a stranger's attempt to stop the server."""
    chain = {str(n): {"class_type": "X", "inputs": {"conditioning": [str(n + 1), 0]}} for n in range(4_000)}
    chain["s"] = {"class_type": "KSampler", "inputs": KSAMPLER | {"positive": ["0", 0], "model": ["0", 0]}}
    chain["4000"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "cat"}}
    found = comfyui.read({"prompt": json.dumps(chain)})
    assert found is not None
    assert found.values["prompt"] == "cat"
    many = {
        str(n): {"class_type": "X", "inputs": {str(i): [str(i), 0] for i in range(40)}} for n in range(1_000)
    }
    assert comfyui.read({"prompt": json.dumps(many)}) is None


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(10**400)
    | st.sampled_from([PROMPT, "euler", "karras", ["1", 0], ["2", 1], "KSampler", "CLIPTextEncode"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_KEYS = """
    prompt seed steps cfg scale sampler sampler_name scheduler positive negative text conditioning guider
    sigmas noise model uc Comment sui_image_params positive_prompt cfg_scale base_model negativeprompt value
"""
KEYS = st.sampled_from(_KEYS.split())
NODES = st.dictionaries(
    st.sampled_from("123"),
    VALUES
    | st.fixed_dictionaries(
        {
            "class_type": st.sampled_from(["KSampler", "X"]),
            "inputs": st.dictionaries(KEYS, VALUES, max_size=8),
        }
    ),
    max_size=3,
)


@given(
    chunk=st.sampled_from(["parameters", "prompt", "Comment", "invokeai_metadata", "Description"]),
    value=NODES | st.dictionaries(KEYS, VALUES, max_size=10),
    cut=st.floats(0.5, 1),
)
@examples(300)
def test_no_metadata_makes_reading_fail(chunk: str, value: dict[str, Any], cut: float) -> None:
    """Whatever a file holds, it gives valid settings or none, which JSON and a terminal can hold."""
    text = json.dumps(value)
    found = read(png({chunk: text[: round(cut * len(text))] if cut < 0.6 else text}))
    if found is not None:
        InpaintRequest(image=BLANK, mask=BLANK, **{"prompt": "", **found.settings})
        facts = [found.model, found.settings, left_out(found)]
        json.dumps(facts, ensure_ascii=False, allow_nan=False).encode()


# On the command line.


INPUTS = {
    "a1111_steps8": a1111("DPM++ SDE, Schedule type: SGM Uniform").replace("Steps: 30", "Steps: 8"),
    "a1111_bigseed": a1111("Euler a", seed=2**64 - 1),
    "a1111_multiline": (
        "a red circle\non a blue sea\nSteps: many\nNegative prompt: blurry\nbad\n"
        "Steps: 20, Sampler: Euler, CFG scale: 7, Seed: 5, Size: 64x64"
    ),
}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("a1111_steps8", [], "its sampler 'DPM++ SDE' is not one of ours; painting with DPM2 Karras"),
        ("a1111_steps8", ["--scheduler", "Euler"], None),
        (
            "a1111_bigseed", [],
            "its seed 18446744073709551615 is outside -1 to 999999999999999; painting with a new one",
        ),
        ("a1111_bigseed", ["--seed", "7"], None),
        ("a1111_multiline", [], None),
    ],
)  # fmt: skip
def test_from_says_what_it_does_not_take_over(
    name: str, options: list[str], said: str | None, inpaint: Run, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """A picture that is painted again differently, without a word, is taken for a fault."""
    photo.save("photo.png")
    grid_mask.save("mask.png")
    Path("old.png").write_bytes(png({"parameters": INPUTS[name]}))
    done = inpaint(
        "run",
        "photo.png",
        "--mask",
        "mask.png",
        "--from",
        "old.png",
        "--model",
        "demo",
        "--dry-run",
        *options,
    )
    assert done.code == 0, done.err
    warnings = [line for line in done.err.splitlines() if line.startswith("warning:")]
    assert warnings == ([f"warning: old.png: {said}"] if said else [])


def test_info_says_which_program_and_what_is_left_out(inpaint: Run) -> None:
    """A user sees it before painting."""
    sample = SAMPLES["InvokeAI, a sampler that we lack"]
    Path("old.png").write_bytes(png(dict(sample.texts)))
    done = inpaint("info", "old.png")
    assert done.code == 0, done.err
    assert "InvokeAI, model sd_xl_base_1.0" in done.out
    assert "its sampler 'tcd' is not one of ours" in done.out
    facts = json.loads(inpaint("info", "old.png", "--json").out)
    assert facts["made"]["left_out"] == [
        {"field": "scheduler", "problem": "its sampler 'tcd' is not one of ours"}
    ]


@pytest.mark.parametrize(
    ("name", "texts", "settings"),
    [
        (
            "fooocus.png",
            {
                "parameters": json.dumps(
                    {
                        "prompt": "a red circle",
                        "negative_prompt": "blurry",
                        "seed": "5",
                        "sampler": "dpmpp_2m_sde_gpu",
                        "scheduler": "karras",
                        "steps": 30,
                    }
                ),
                "fooocus_scheme": "fooocus",
            },
            {"prompt": "a red circle", "seed": 5, "scheduler": "DPM Multi SDE Karras"},
        ),
        (
            "invoke.png",
            {
                "invokeai_metadata": json.dumps(
                    {"positive_prompt": "a red circle", "seed": 5, "scheduler": "dpmpp_2m_k", "cfg_scale": 7}
                )
            },
            {"prompt": "a red circle", "seed": 5, "scheduler": "DPM Multi Karras", "guidance_scale": 7.0},
        ),
        (
            "comfy.png",
            {"prompt": json.dumps({"3": {"class_type": "KSampler", "inputs": KSAMPLER}}), "workflow": "{}"},
            {"num_inference_steps": 20, "guidance_scale": 7.0, "seed": 5, "scheduler": "Euler"},
        ),
        ("a1111_eulera.png", {"parameters": a1111("Euler a")}, {"scheduler": "Euler a", "seed": 12345}),
        ("a1111_old.png", {"parameters": a1111("DPM++ 2M Karras")}, {"scheduler": "DPM Multi Karras"}),
        (
            "a1111.png",
            {"parameters": a1111("DPM++ 2M, Schedule type: Karras").replace("\n", " <lora:nope:0.8>\n", 1)},
            {"scheduler": "DPM Multi Karras", "loras": (("nope", 0.8),), "prompt": PROMPT},
        ),
    ],
)
def test_the_pictures_of_the_report_are_read(
    name: str, texts: dict[str, str], settings: dict[str, Any]
) -> None:
    """Each of them once said nothing, or something else."""
    found = made(texts)
    assert {key: found.settings.get(key) for key in settings} == settings, name
