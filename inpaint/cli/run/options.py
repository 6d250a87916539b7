"""The options of ``inpaint run``: their types, names and help, one alias each; ``run`` says the defaults.

An option that is a field of ``InpaintRequest`` has the field's name as its parameter, so that ``run`` lists
no fields, and its help ends with the field's range, from the one table.
"""

from pathlib import Path
from typing import Annotated

import typer

from inpaint.request import AREAS, FILLS, RANGES
from inpaint.schedulers import SCHEDULERS

_INPUT, _REGION, _OUTPUT = "Many pictures", "Which part is repainted", "Output"
_MACHINE = "Model and machine"


def _option(
    text: str, *names: str, field: str = "", panel: str | None = None, metavar: str | None = None
) -> typer.models.OptionInfo:
    limits = f" ({RANGES[field]})" if field else ""
    return typer.Option(  # type: ignore[no-any-return]
        *names, help=f"{text}{limits}.", rich_help_panel=panel, metavar=metavar, show_default=True
    )


Images = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="IMAGE...",
        help="Pictures to repaint: PNG, JPEG or WebP files, folders, quoted globs such as 'photos/*.jpg', or "
        "- for a list on stdin, one path a line.",
        show_default=False,
    ),
]
Recursive = Annotated[
    bool, _option("Look into folders inside folders, too", "--recursive", "-r", panel=_INPUT)
]
ByNull = Annotated[bool, _option("Paths on stdin end with a zero byte", "--null", "-0", panel=_INPUT)]
Jobs = Annotated[
    Path | None,
    _option(
        "One JSON object a line with image, and mask, prompt, output, extend or any field of a request; the "
        "other options are its defaults",
        "--jobs",
        panel=_INPUT,
        metavar="FILE",
    ),
]
From = Annotated[
    Path | None,
    _option(
        "A picture that was painted before: its settings and seed, unless other options say otherwise",
        "--from",
        panel=_INPUT,
        metavar="PICTURE",
    ),
]

# What is painted.
Prompt = Annotated[str | None, _option("What to paint there; (word:1.3) weighs a word", "--prompt", "-p")]
NegativePrompt = Annotated[str | None, _option("What not to paint")]
Scheduler = Annotated[str, _option(f"One of: {', '.join(SCHEDULERS)}")]
Steps = Annotated[int, _option("Denoising steps", "--steps", field="num_inference_steps")]
GuidanceScale = Annotated[float, _option("How closely to follow the prompt", field="guidance_scale")]
Strength = Annotated[float, _option("How much to change", field="strength")]
Seed = Annotated[int, _option("Same seed, same picture; -1 draws one", field="seed")]
Samples = Annotated[int, _option("How many variations, with seeds counting up", field="samples")]
GuidanceInterval = Annotated[
    str | None,
    _option(
        "Follow the prompt closely only between these fractions of the steps, such as 0.2,0.8: faster, "
        "another picture",
        metavar="A,B",
    ),
]

Loras = Annotated[
    list[str] | None,
    _option(
        "A LoRA from `inpaint loras list` and how strongly; may be repeated, and the prompt may hold "
        "<lora:NAME:0.8>",
        "--lora",
        metavar="NAME:0.8",
    ),
]

# Where in the picture.
Mask = Annotated[
    str | None,
    typer.Option(
        help="Black and white picture, white = repaint; a folder with one per picture, of its name; a "
        "template such as masks/{stem}_mask.png; or 'alpha': what is transparent.",
        show_default="{stem}_mask beside IMAGE",
    ),
]
Area = Annotated[
    str,
    _option(f"{' or '.join(AREAS)}: work on the mask's surroundings or the whole picture", panel=_REGION),
]
Padding = Annotated[int, _option("Context around the mask", field="padding", panel=_REGION)]
Grow = Annotated[int, _option("Widen the mask", field="grow", panel=_REGION)]
Feather = Annotated[int, _option("Soften the mask's edge outwards", field="feather", panel=_REGION)]
Fill = Annotated[str, _option(f"What the hole holds before painting: {', '.join(FILLS)}", panel=_REGION)]
ColorMatch = Annotated[bool, _option("Fit the patch's colours to its surroundings", panel=_REGION)]
Soft = Annotated[bool, _option("Read grey in the mask as strength", panel=_REGION)]
Extend = Annotated[
    str | None,
    _option("Widen the picture by so many pixels and paint those too", panel=_REGION, metavar="L,T,R,B"),
]

# What becomes of it.
OutputPath = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        rich_help_panel=_OUTPUT,
        help="File or folder; may hold {stem}, {seed}, {n} and {parent}, the name of the picture's folder.",
        show_default="{stem}_inpainted beside IMAGE",
    ),
]
Overwrite = Annotated[bool, _option("Replace files that exist", "--overwrite", panel=_OUTPUT)]
Resume = Annotated[
    bool,
    _option(
        "Skip what is there already, painted from the same files with the same settings; what is there but "
        "was painted otherwise stays too, and fails, unless --overwrite is given",
        "--resume",
        panel=_OUTPUT,
    ),
]
ReportPath = Annotated[
    Path | None,
    _option("Write a line of JSON a picture, as it is done", "--report", panel=_OUTPUT, metavar="FILE"),
]
FailFast = Annotated[bool, _option("Stop at the first picture that fails", "--fail-fast", panel=_OUTPUT)]
Metadata = Annotated[
    bool,
    _option("Say in the picture how it was made, prompt included", "--metadata/--no-metadata", panel=_OUTPUT),
]
AsJson = Annotated[bool, _option("One JSON object a picture on stdout", "--json", panel=_OUTPUT)]
DryRun = Annotated[bool, _option("Only check and say what would be done", "--dry-run", panel=_OUTPUT)]

# On what.
Model = Annotated[str, _option("Name, diffusers folder or .safetensors file", panel=_MACHINE)]
Device = Annotated[str, _option("auto, cpu, cuda or cuda:N", panel=_MACHINE)]
Dtype = Annotated[str, _option("auto, float32, float16 or bfloat16", panel=_MACHINE)]
Memory = Annotated[str, _option("auto, resident, offload-text, fp8 or streamed", panel=_MACHINE)]
Precision = Annotated[
    str, _option("exact, or fp8: quicker on newer GPUs, pictures that differ a little", panel=_MACHINE)
]
Without = Annotated[
    list[str] | None,
    _option(
        "Leave one of the ways to be quick out, such as compile or graphs; may be repeated",
        panel=_MACHINE,
        metavar="LEVER",
    ),
]
FewStepLora = Annotated[
    Path | None,
    _option("A LoRA that paints in 4 to 8 steps, with --guidance-scale 1", panel=_MACHINE, metavar="FILE"),
]
LoraFolder = Annotated[
    Path | None,
    typer.Option(
        "--loras",
        help="Folder of the LoRA files that --lora names.",
        rich_help_panel=_MACHINE,
        metavar="DIR",
        show_default="INPAINT_LORAS",
    ),
]
