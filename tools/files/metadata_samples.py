"""Texts in the formats that other programs write into pictures, with what they say; written by hand.

They follow the programs' published sources and hold nobody's prompts. ``tests/inpaint/images`` reads them as
well.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PROMPT, NEGATIVE = "a red circle, (soft light:1.2)", "blurry, bad"
SAID: Mapping[str, Any] = {
    "prompt": PROMPT,
    "negative_prompt": NEGATIVE,
    "seed": 12345,
    "num_inference_steps": 30,
    "guidance_scale": 6.5,
}


@dataclass(frozen=True, slots=True)
class Sample:
    """The texts of one PNG, the settings that they say, and the fields that cannot be taken over."""

    kind: str
    texts: Mapping[str, str]
    says: Mapping[str, Any]
    left_out: tuple[str, ...] = ()
    tool: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class _Graph:
    """A ComfyUI graph under construction."""

    nodes: dict[str, Any] = field(default_factory=dict)

    def add(self, kind: str, **inputs: object) -> list[Any]:
        """Add a node; return the link to its first output."""
        name = str(len(self.nodes) + 1)
        self.nodes[name] = {"class_type": kind, "inputs": inputs}
        return [name, 0]

    def text(self, prompt: str, clip: object) -> list[Any]:
        return self.add("CLIPTextEncode", text=prompt, clip=clip)

    def save(self, latents: object) -> dict[str, str]:
        """Add the output; return the texts of its PNG."""
        self.add("SaveImage", images=self.add("VAEDecode", samples=latents), filename_prefix="x")
        return {"prompt": json.dumps(self.nodes), "workflow": json.dumps({"nodes": [], "links": []})}


def samples() -> list[Sample]:
    """Return one sample for each kind of file."""
    return [*_a1111(), *_comfyui(), *_invokeai(), *_fooocus(), *_swarmui(), *_novelai()]


def a1111(sampler: str, *, seed: object = 12345, more: str = "", version: str = "v1.10.1") -> str:
    """Return A1111's text; ``sampler`` may hold a schedule type as well."""
    return (
        f"{PROMPT}\nNegative prompt: {NEGATIVE}\nSteps: 30, Sampler: {sampler}, CFG scale: 6.5, "
        f"Seed: {seed}, Size: 512x512, Model hash: 31e35c80fc, "
        f"Model: sd_xl_base_1.0{more}, Version: {version}"
    )


def _a1111() -> list[Sample]:
    def sample(kind: str, text: str, left_out: tuple[str, ...] = (), **says: object) -> Sample:
        kept = {name: value for name, value in (SAID | says).items() if value is not None}
        return Sample(kind, {"parameters": text}, kept, left_out, model="sd_xl_base_1.0")

    karras = {"scheduler": "DPM Multi Karras"}
    return [
        sample("A1111 1.10", a1111("DPM++ 2M, Schedule type: Karras"), **karras),
        sample("A1111 before 1.9", a1111("DPM++ 2M Karras", version="v1.6.0"), **karras),
        sample(
            "A1111, DPM++ 2M SDE",
            a1111("DPM++ 2M SDE, Schedule type: Karras"),
            scheduler="DPM Multi SDE Karras",
        ),
        sample(
            "Forge", a1111("Euler a, Schedule type: Automatic", version="f2.0.1v1.10.1"), scheduler="Euler a"
        ),
        sample(
            "A1111, a schedule that we lack",
            a1111("DPM++ 2M, Schedule type: SGM Uniform"),
            ("scheduler",),
            scheduler="DPM Multi",
        ),
        sample("A1111, a sampler that we lack", a1111("DPM++ SDE, Schedule type: Karras"), ("scheduler",)),
        sample(
            "A1111, a seed of 64 bits",
            a1111("Euler", seed=2**64 - 1),
            ("seed",),
            scheduler="Euler",
            seed=None,
        ),
        sample("ComfyUI saved in A1111's format", a1111("dpmpp_2m_karras", version="ComfyUI"), **karras),
        sample(
            "the same, with a scheduler",
            a1111("euler_ancestral, Scheduler: normal", version="ComfyUI"),
            scheduler="Euler a",
        ),
        sample(
            "Fooocus' scheme a1111",
            a1111("DPM++ 2M SDE Karras", more=", Scheduler: karras", version="Fooocus v2.5.0"),
            scheduler="DPM Multi SDE Karras",
        ),
    ]


def _comfyui() -> list[Sample]:
    def sample(kind: str, texts: dict[str, str], **says: object) -> Sample:
        return Sample(kind, texts, SAID | says, tool="ComfyUI", model="sd_xl_base_1.0")

    return [
        sample("ComfyUI, KSampler", _ksampler(), scheduler="Euler a"),
        sample("ComfyUI, SDXL base and refiner", _refined(), scheduler="DPM Multi Karras"),
        sample("ComfyUI, SamplerCustomAdvanced", _custom(), scheduler="DPM Multi Karras"),
        sample("ComfyUI, inpainting with primitives", _inpainting(), scheduler="UniPC"),
    ]


def _ksampler() -> dict[str, str]:
    graph = _Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sdxl/sd_xl_base_1.0.safetensors")
    clip = [model[0], 1]
    latents = graph.add(
        "KSampler", seed=12345, steps=30, cfg=6.5, sampler_name="euler_ancestral", scheduler="normal",
        model=model, positive=graph.text(PROMPT, clip), negative=graph.text(NEGATIVE, clip),
        latent_image=graph.add("EmptyLatentImage", width=1024, height=1024, batch_size=1),
    )  # fmt: skip
    return graph.save(latents)


def _refined() -> dict[str, str]:
    graph = _Graph()
    base = graph.add("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
    refiner = graph.add("CheckpointLoaderSimple", ckpt_name="sd_xl_refiner_1.0.safetensors")

    def both(text: str) -> list[Any]:
        return graph.add(
            "CLIPTextEncodeSDXL", text_g=text, text_l=text, clip=[base[0], 1], width=1024, height=1024
        )

    shared = {"steps": 30, "cfg": 6.5, "sampler_name": "dpmpp_2m", "scheduler": "karras"}
    first = graph.add(
        "KSamplerAdvanced", add_noise="enable", noise_seed=12345, start_at_step=0, end_at_step=20, model=base,
        positive=both(PROMPT), negative=both(NEGATIVE), latent_image=graph.add("EmptyLatentImage"), **shared,
    )  # fmt: skip
    refine = [graph.add("CLIPTextEncodeSDXLRefiner", text="refined", ascore=6, clip=[refiner[0], 1])] * 2
    return graph.save(
        graph.add(
            "KSamplerAdvanced", add_noise="disable", noise_seed=0, start_at_step=20, end_at_step=10000,
            model=refiner, positive=refine[0], negative=refine[1], latent_image=first, **shared,
        )
    )  # fmt: skip


def _custom() -> dict[str, str]:
    graph = _Graph()
    loaded = graph.add("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
    model = graph.add(
        "LoraLoader", model=loaded, clip=[loaded[0], 1], lora_name="x.safetensors", strength_model=1
    )
    guider = graph.add(
        "CFGGuider", model=model, cfg=6.5, positive=graph.text(PROMPT, [model[0], 1]),
        negative=graph.text(NEGATIVE, [model[0], 1]),
    )  # fmt: skip
    latents = graph.add(
        "SamplerCustomAdvanced", noise=graph.add("RandomNoise", noise_seed=12345), guider=guider,
        sampler=graph.add("KSamplerSelect", sampler_name="dpmpp_2m"),
        sigmas=graph.add("KarrasScheduler", steps=30, sigma_max=14.6, sigma_min=0.03, rho=7),
        latent_image=graph.add("EmptyLatentImage"),
    )  # fmt: skip
    return graph.save(latents)


def _inpainting() -> dict[str, str]:
    graph = _Graph()
    model = graph.add("CheckpointLoaderSimple", ckpt_name="sd_xl_base_1.0.safetensors")
    words = graph.add("PrimitiveString", value=PROMPT)
    both = graph.add(
        "InpaintModelConditioning", positive=graph.text(words, model), negative=graph.text(NEGATIVE, model),
        pixels=graph.add("LoadImage", image="photo.png"),
    )  # fmt: skip
    latents = graph.add(
        "KSampler", seed=graph.add("PrimitiveInt", value=12345), steps=30, cfg=6.5, sampler_name="uni_pc",
        scheduler="simple", denoise=0.8, model=model, positive=both, negative=[both[0], 1],
        latent_image=[both[0], 2],
    )  # fmt: skip
    return graph.save(latents)


def _invokeai() -> list[Sample]:
    settings = {
        "app_version": "5.6.0", "generation_mode": "sdxl_inpaint", "positive_prompt": PROMPT,
        "negative_prompt": NEGATIVE, "width": 1024, "height": 1024, "seed": 12345, "rand_device": "cpu",
        "cfg_scale": 6.5, "cfg_rescale_multiplier": 0.0, "steps": 30, "scheduler": "dpmpp_2m_k",
        "model": {"key": "k", "hash": "blake3:0", "name": "sd_xl_base_1.0", "base": "sdxl", "type": "main"},
    }  # fmt: skip

    def sample(kind: str, ours: str | None, **changed: object) -> Sample:
        said = SAID | ({"scheduler": ours} if ours else {})
        texts = {"invokeai_metadata": json.dumps(settings | changed)}
        return Sample(kind, texts, said, () if ours else ("scheduler",), "InvokeAI", "sd_xl_base_1.0")

    third = {"model_name": "sd_xl_base_1.0", "base_model": "sdxl", "model_type": "main"}
    return [
        sample("InvokeAI 5", "DPM Multi Karras"),
        sample("InvokeAI 3", "Euler a", app_version="3.7.0", scheduler="euler_a", model=third),
        sample("InvokeAI, a sampler that we lack", None, scheduler="tcd"),
    ]


def _fooocus() -> list[Sample]:
    settings = {
        "adm_guidance": "(1.5, 0.8, 0.3)", "base_model": "sd_xl_base_1.0", "base_model_hash": "31e35c80fc",
        "clip_skip": 2, "full_negative_prompt": [NEGATIVE], "full_prompt": [PROMPT], "guidance_scale": 6.5,
        "loras": [], "metadata_scheme": "fooocus", "negative_prompt": NEGATIVE, "performance": "Speed",
        "prompt": PROMPT, "refiner_model": "None", "resolution": "(1024, 1024)",
        "sampler": "dpmpp_2m_sde_gpu", "scheduler": "karras", "seed": "12345",
        "sharpness": 2, "steps": 30, "version": "Fooocus v2.5.0",
    }  # fmt: skip
    ruined = {
        "Prompt": PROMPT, "Negative": NEGATIVE, "steps": 30, "cfg": 6.5, "width": 1024, "height": 1024,
        "seed": 12345, "sampler_name": "euler", "scheduler": "simple",
        "base_model_name": "sd_xl_base_1.0.safetensors", "software": "RuinedFooocus",
    }  # fmt: skip
    return [
        Sample(
            "Fooocus' own scheme", {"parameters": json.dumps(settings), "fooocus_scheme": "fooocus"},
            SAID | {"scheduler": "DPM Multi SDE Karras"}, tool="Fooocus", model="sd_xl_base_1.0",
        ),
        Sample(
            "RuinedFooocus", {"parameters": json.dumps(ruined)}, SAID | {"scheduler": "Euler"},
            tool="Fooocus",
            model="sd_xl_base_1.0",
        ),
    ]  # fmt: skip


def _swarmui() -> list[Sample]:
    settings = {
        "prompt": PROMPT, "negativeprompt": NEGATIVE, "model": "OfficialStableDiffusion/sd_xl_base_1.0",
        "seed": 12345, "steps": 30, "cfgscale": 6.5, "aspectratio": "1:1", "width": 1024, "height": 1024,
        "sampler": "dpmpp_2m", "scheduler": "karras", "swarm_version": "0.9.6.2",
    }  # fmt: skip
    older = {name: value for name, value in settings.items() if name not in ("sampler", "scheduler")}
    older |= {"comfyuisampler": "ddim", "comfyuischeduler": "ddim_uniform"}

    def sample(kind: str, params: Mapping[str, Any], scheduler: str) -> Sample:
        text = json.dumps({"sui_image_params": params, "sui_extra_data": {"date": "2026-11-30"}}, indent=2)
        return Sample(
            kind, {"parameters": text}, SAID | {"scheduler": scheduler}, (), "SwarmUI", "sd_xl_base_1.0"
        )

    return [sample("SwarmUI", settings, "DPM Multi Karras"), sample("SwarmUI before 0.6.4", older, "DDIM")]


def _novelai() -> list[Sample]:
    comment = {
        "prompt": PROMPT, "steps": 30, "height": 1024, "width": 1024, "scale": 6.5, "uncond_scale": 0.0,
        "cfg_rescale": 0.0, "seed": 12345, "n_samples": 1, "noise_schedule": "native",
        "sampler": "k_euler_ancestral", "uc": NEGATIVE, "request_type": "PromptGenerateRequest",
    }  # fmt: skip
    titled = {"Title": "NovelAI generated image", "Description": PROMPT, "Software": "NovelAI"}
    first = {name: comment[name] for name in ("steps", "sampler", "seed", "scale", "uc")}

    def sample(kind: str, values: Mapping[str, Any], scheduler: str) -> Sample:
        texts = titled | {"Source": "Stable Diffusion XL 7BCCAA2C", "Comment": json.dumps(values)}
        return Sample(kind, texts, SAID | {"scheduler": scheduler}, tool="NovelAI")

    karras = comment | {"sampler": "k_dpmpp_2m", "noise_schedule": "karras"}
    return [
        sample("NovelAI 3", comment, "Euler a"),
        sample(
            "NovelAI 4", karras | {"v4_prompt": {"caption": {"base_caption": PROMPT}}}, "DPM Multi Karras"
        ),
        sample("NovelAI 1, whose prompt is the description", first, "Euler a"),
    ]
