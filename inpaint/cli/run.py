"""``inpaint run``: its options and their defaults; what they mean is in ``options``, the work in ``work``."""

from typing import Any

import typer

from inpaint.cli import options
from inpaint.errors import RequestError
from inpaint.request import SETTINGS, InpaintRequest

_DEFAULTS = {name: field.default for name, field in InpaintRequest.__dataclass_fields__.items()}


def run(
    context: typer.Context,
    images: options.Images,
    prompt: options.Prompt,
    mask: options.Mask = None,
    negative_prompt: options.NegativePrompt = None,
    scheduler: options.Scheduler = str(_DEFAULTS["scheduler"]),
    num_inference_steps: options.Steps = 25,
    guidance_scale: options.GuidanceScale = 7.5,
    strength: options.Strength = 0.9,
    seed: options.Seed = -1,
    samples: options.Samples = 1,
    guidance_interval: options.GuidanceInterval = None,
    area: options.Area = "auto",
    padding: options.Padding = 32,
    grow: options.Grow = 8,
    feather: options.Feather = 16,
    fill: options.Fill = "original",
    color_match: options.ColorMatch = True,
    soft: options.Soft = False,
    extend: options.Extend = None,
    output: options.OutputPath = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    model: options.Model = "demo",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory: options.Memory = "auto",
    precision: options.Precision = "exact",
    without: options.Without = None,
    few_step_lora: options.FewStepLora = None,
) -> None:
    """Repaint the white part of a mask in one or more pictures.

    Pixels away from the mask stay as they are, bit for bit in PNG.

    Every picture keeps its size, format, colour profile and EXIF.
    """
    from inpaint.cli.output import Output
    from inpaint.cli.work import Machine, Work, parse_extend

    work = Work(
        images=tuple(images),
        mask=mask,
        settings=_settings(context),
        extend=parse_extend(extend),
        output=Output(output, several=len(images) > 1, samples=samples, overwrite=overwrite),
        machine=Machine(model, device, dtype, memory, precision, tuple(without or ()), few_step_lora),
        as_json=as_json,
    )
    if dry_run:
        work.rehearse()
    else:
        work.run()


def _settings(context: typer.Context) -> dict[str, Any]:
    """The fields of a request that have an option: those of the same name, in the request's order."""
    settings = {name: context.params[name] for name in SETTINGS if name in context.params}
    return settings | {"guidance_interval": _parse_interval(settings["guidance_interval"])}


def _parse_interval(text: str | None) -> tuple[float, float]:
    """``A,B`` as two numbers; whether they are an interval is for the request to say.

    Raises:
        RequestError: not two numbers.
    """
    if text is None:
        return (0.0, 1.0)
    try:
        begin, end = map(float, text.split(","))
    except ValueError:
        raise RequestError(
            "guidance_interval", f"must be two numbers A,B such as 0.2,0.8, not {text!r}"
        ) from None
    return begin, end
