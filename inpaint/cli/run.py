"""``inpaint run``: its options, and nothing else; the work is in ``work`` and ``output``."""

from pathlib import Path
from typing import Annotated

import typer

from inpaint.errors import RequestError
from inpaint.request import AREAS, FILLS, RANGES, InpaintRequest
from inpaint.schedulers import SCHEDULERS

_DEFAULTS = {name: field.default for name, field in InpaintRequest.__dataclass_fields__.items()}


def _option(text: str, field: str = "", *names: str, panel: str | None = None) -> typer.models.OptionInfo:
    """An option whose help ends with its field's range, from the one table."""
    limits = f" ({RANGES[field]})" if field in RANGES else ""
    return typer.Option(*names, help=f"{text}{limits}.", rich_help_panel=panel, show_default=True)  # type: ignore[no-any-return]


_REGION, _OUTPUT, _MACHINE = "Which part is repainted", "Output", "Model and machine"


def run(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE...", help="Pictures to repaint: PNG, JPEG or WebP.", show_default=False
        ),
    ],
    prompt: Annotated[str, _option("What to paint there; (word:1.3) weighs a word", "", "--prompt", "-p")],
    mask: Annotated[
        Path | None,
        _option("Black and white picture, white = repaint; or a folder with one per picture, of its name"),
    ] = None,
    negative_prompt: Annotated[str | None, _option("What not to paint")] = None,
    scheduler: Annotated[str, _option(f"One of: {', '.join(SCHEDULERS)}")] = str(_DEFAULTS["scheduler"]),
    steps: Annotated[int, _option("Denoising steps", "num_inference_steps")] = 25,
    guidance_scale: Annotated[float, _option("How closely to follow the prompt", "guidance_scale")] = 7.5,
    strength: Annotated[float, _option("How much to change", "strength")] = 0.9,
    seed: Annotated[int, _option("Same seed, same picture; -1 draws one", "seed")] = -1,
    samples: Annotated[int, _option("How many variations, with seeds counting up", "samples")] = 1,
    area: Annotated[
        str,
        _option(f"{' or '.join(AREAS)}: work on the mask's surroundings or the whole picture", panel=_REGION),
    ] = "auto",
    padding: Annotated[int, _option("Context around the mask", "padding", panel=_REGION)] = 32,
    grow: Annotated[int, _option("Widen the mask", "grow", panel=_REGION)] = 8,
    feather: Annotated[int, _option("Soften the mask's edge outwards", "feather", panel=_REGION)] = 16,
    fill: Annotated[
        str, _option(f"What the hole holds before painting: {', '.join(FILLS)}", panel=_REGION)
    ] = "original",
    color_match: Annotated[
        bool, _option("Fit the patch's colours to its surroundings", panel=_REGION)
    ] = True,
    soft: Annotated[bool, _option("Read grey in the mask as strength", panel=_REGION)] = False,
    guidance_interval: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Follow the prompt closely only between these fractions of the steps, such as 0.2,0.8: "
            "faster, another picture.",
        ),
    ] = None,
    extend: Annotated[
        str | None,
        typer.Option(
            metavar="L,T,R,B",
            help="Widen the picture by so many pixels and paint those too.",
            rich_help_panel=_REGION,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            rich_help_panel=_OUTPUT,
            help="File or folder; may hold {stem}, {seed}, {n}. If not given: {stem}_inpainted beside IMAGE.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, _option("Replace files that exist", "", "--overwrite", panel=_OUTPUT)] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a picture on stdout.", rich_help_panel=_OUTPUT)
    ] = False,
    dry_run: Annotated[
        bool, _option("Only check and say what would be done", "", "--dry-run", panel=_OUTPUT)
    ] = False,
    model: Annotated[str, _option("Name, diffusers folder or .safetensors file", panel=_MACHINE)] = "demo",
    device: Annotated[str, _option("auto, cpu, cuda or cuda:N", panel=_MACHINE)] = "auto",
    dtype: Annotated[str, _option("auto, float32, float16 or bfloat16", panel=_MACHINE)] = "auto",
    memory: Annotated[str, _option("auto, resident, offload-text, fp8 or streamed", panel=_MACHINE)] = "auto",
    precision: Annotated[
        str, _option("exact, or fp8: quicker on newer GPUs, pictures that differ a little", panel=_MACHINE)
    ] = "exact",
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LEVER",
            help="Leave one of the ways to be quick out, such as compile or graphs; may be repeated.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
    few_step_lora: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A LoRA that paints in 4 to 8 steps, with --guidance-scale 1.",
            rich_help_panel=_MACHINE,
        ),
    ] = None,
) -> None:
    """Repaint the white part of a mask in one or more pictures.

    Pixels away from the mask stay as they are, bit for bit in PNG.

    Every picture keeps its size, format, colour profile and EXIF.
    """
    from inpaint.cli.output import Output
    from inpaint.cli.work import Machine, Work, parse_extend

    settings = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "samples": samples,
        "scheduler": scheduler,
        "num_inference_steps": steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "strength": strength,
        "area": area,
        "padding": padding,
        "grow": grow,
        "feather": feather,
        "fill": fill,
        "color_match": color_match,
        "soft": soft,
        "guidance_interval": _parse_interval(guidance_interval),
    }
    work = Work(
        images=tuple(images),
        mask=mask,
        settings=settings,
        extend=parse_extend(extend),
        output=Output(output, several=len(images) > 1, samples=samples, overwrite=overwrite),
        machine=Machine(model, device, dtype, memory, precision, tuple(without or ()), few_step_lora),
        as_json=as_json,
    )
    if dry_run:
        work.rehearse()
    else:
        work.run()


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
