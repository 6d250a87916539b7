"""The options of ``inpaint run``: types, names and help, one alias each; ``run`` has the defaults.

An option that is a field of ``InpaintRequest`` has the field's name as its parameter, so that ``run`` lists
no fields, and its help ends with the field's range, from the one table.
"""

from pathlib import Path
from typing import Annotated

import typer

from inpaint.pace import PACES
from inpaint.request import AREAS, FILLS, LENGTHS, MASK_CHANNELS, RANGES
from inpaint.schedulers import SCHEDULERS

_INPUT, _REGION, _OUTPUT = "Many pictures", "Which part is repainted", "Output"
_SELECTION = "Select an object instead of giving a mask"
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
        metavar="IMAGE",
        help="Pictures to repaint: PNG, JPEG, WebP, TIFF or AVIF files, folders, quoted globs such as "
        "'photos/*.jpg', or - to read paths from stdin, one per line.",
        show_default=False,
    ),
]
Recursive = Annotated[bool, _option("Also look in subfolders", "--recursive", "-r", panel=_INPUT)]
ByNull = Annotated[
    bool, _option("Paths on stdin end with a zero byte, as after find -print0", "--null", "-0", panel=_INPUT)
]
Jobs = Annotated[
    Path | None,
    _option(
        "JSON Lines file (- for stdin), one picture per line: image, and optionally mask, prompt, output, "
        "extend or any field of a request; the other options are the defaults",
        "--jobs",
        panel=_INPUT,
        metavar="FILE",
    ),
]
From = Annotated[
    Path | None,
    _option(
        "Reuse the settings and the seed of a picture painted earlier; options given here win",
        "--from",
        panel=_INPUT,
        metavar="PICTURE",
    ),
]

# What is painted.
Prompt = Annotated[
    str | None, _option("What to paint there; (word:1.3) gives a word more weight", "--prompt", "-p")
]
NegativePrompt = Annotated[str | None, _option("What not to paint")]
Scheduler = Annotated[str, _option(f"One of: {', '.join(SCHEDULERS)}")]
Steps = Annotated[int, _option("Number of denoising steps", "--steps", field="num_inference_steps")]
GuidanceScale = Annotated[float, _option("How closely to follow the prompt", field="guidance_scale")]
GuidanceRescale = Annotated[
    float,
    _option(
        "Pull the contrast of guided pictures back to that of the prompt's own, about 0.7 for a model with "
        "zero terminal SNR",
        field="guidance_rescale",
    ),
]
Strength = Annotated[float, _option("How much to change what is under the mask", field="strength")]
Seed = Annotated[int, _option("The same seed gives the same picture; -1 draws a random one", field="seed")]
Samples = Annotated[int, _option("Number of variations; their seeds count up", field="samples")]
GuidanceInterval = Annotated[
    str | None,
    _option(
        "Apply guidance only between these fractions of the steps, such as 0.2,0.8: faster, but the "
        "picture changes",
        metavar="A,B",
    ),
]
Pace = Annotated[
    str,
    _option(
        f"{' or '.join(PACES)}: near takes about half the time for nearly the same picture, by forecasting "
        "every second UNet call"
    ),
]

Loras = Annotated[
    list[str] | None,
    _option(
        "A LoRA from `inpaint loras list` and its strength; may be repeated. The prompt may also hold "
        "<lora:NAME:0.8>",
        "--lora",
        metavar="NAME:0.8",
    ),
]

# Where in the picture.
Mask = Annotated[
    str | None,
    typer.Option(
        help="A picture, white = repaint; a folder of masks named like the pictures; a template such as "
        "masks/{stem}_mask.png; or 'alpha' to repaint what is transparent in the picture. By default, "
        "{stem}_mask next to the picture.",
        show_default=False,
    ),
]
Area = Annotated[
    str,
    _option(f"{' or '.join(AREAS)}: work on the mask's surroundings or on the whole picture", panel=_REGION),
]
Padding = Annotated[
    int,
    _option(
        "Context around the mask, like --grow and --feather in the pixels that --lengths says",
        field="padding",
        panel=_REGION,
    ),
]
Grow = Annotated[int, _option("Widen the mask", field="grow", panel=_REGION)]
Feather = Annotated[int, _option("Soften the mask's edge outwards", field="feather", panel=_REGION)]
Lengths = Annotated[
    str,
    _option(
        f"{' or '.join(LENGTHS)}: the pixels of --padding, --grow and --feather are those of a 1024-pixel "
        "working size, or the picture's own",
        panel=_REGION,
    ),
]
Fill = Annotated[str, _option(f"What to put under the mask first: {', '.join(FILLS)}", panel=_REGION)]
ColorMatch = Annotated[bool, _option("Match the painted part's colours to its surroundings", panel=_REGION)]
Soft = Annotated[bool, _option("Read grey in the mask as partial strength", panel=_REGION)]
MaskChannel = Annotated[
    str,
    _option(
        f"{' or '.join(MASK_CHANNELS)}: repaint what is white in the mask, or what is transparent in it",
        panel=_REGION,
    ),
]
InvertMask = Annotated[bool, _option("Repaint what the mask would keep, and keep the rest", panel=_REGION)]
ResizeMask = Annotated[
    bool, _option("Take a mask of the picture's shape in another size, and resize it", panel=_REGION)
]
Extend = Annotated[
    str | None,
    _option(
        "Add this much on the left, top, right and bottom, and paint it: pixels, or parts such as 50%; one "
        "number is for all sides",
        panel=_REGION,
        metavar="L,T,R,B",
    ),
]

# A mask that is made of the picture; `inpaint erase` has these, too.
Select = Annotated[
    list[str] | None,
    _option(
        "Instead of a mask: a pixel inside the object that is meant; may be repeated",
        "--select",
        panel=_SELECTION,
        metavar="X,Y",
    ),
]
SelectNot = Annotated[
    list[str] | None,
    _option(
        "A pixel that does not belong to it; may be repeated", "--select-not", panel=_SELECTION, metavar="X,Y"
    ),
]
SelectBox = Annotated[str | None, _option("A box around the object", panel=_SELECTION, metavar="L,T,R,B")]
SelectSubject = Annotated[
    bool, _option("The main thing in the picture", "--select-subject", panel=_SELECTION)
]
SelectBackground = Annotated[
    bool, _option("Everything but the main thing", "--select-background", panel=_SELECTION)
]
SelectWith = Annotated[
    str,
    _option(
        "auto, snap (follows the edges, and needs no model) or sam (after `inpaint models fetch sam2-tiny`); "
        "auto is sam if it is installed",
        panel=_SELECTION,
    ),
]
SaveMask = Annotated[
    Path | None, _option("Keep the mask that was made, as a PNG", panel=_SELECTION, metavar="FILE")
]

# Where the results go.
OutputPath = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        rich_help_panel=_OUTPUT,
        help="File or folder; may hold {stem}, {seed}, {n} and {parent}, the name of the picture's folder. "
        "By default, {stem}_inpainted next to the picture.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, _option("Replace existing files", "--overwrite", panel=_OUTPUT)]
Resume = Annotated[
    bool,
    _option(
        "Skip pictures already painted from the same files with the same settings; a result painted "
        "otherwise is kept and reported as an error, unless --overwrite is given",
        "--resume",
        panel=_OUTPUT,
    ),
]
ReportPath = Annotated[
    Path | None,
    _option("Write one line of JSON per picture, as it is done", "--report", panel=_OUTPUT, metavar="FILE"),
]
FailFast = Annotated[bool, _option("Stop at the first picture that fails", "--fail-fast", panel=_OUTPUT)]
Metadata = Annotated[
    bool,
    _option(
        "Store in the picture how it was made, prompt included", "--metadata/--no-metadata", panel=_OUTPUT
    ),
]
AsJson = Annotated[bool, _option("Print one JSON object per picture on stdout", "--json", panel=_OUTPUT)]
DryRun = Annotated[bool, _option("Only check, and show what would be done", "--dry-run", panel=_OUTPUT)]

# What paints.
Model = Annotated[
    str,
    _option("A name from `inpaint models list`, a diffusers folder or a .safetensors file", panel=_MACHINE),
]
Device = Annotated[str, _option("auto, cpu, cuda or cuda:N", panel=_MACHINE)]
Dtype = Annotated[str, _option("auto, float32, float16 or bfloat16", panel=_MACHINE)]
Memory = Annotated[
    str,
    _option("Memory plan: auto, resident, resident-8, offload-text, tiled, fp8 or streamed", panel=_MACHINE),
]
Precision = Annotated[
    str,
    _option("exact, or fp8: faster on newer GPUs, with slightly different pictures", panel=_MACHINE),
]
Without = Annotated[
    list[str] | None,
    _option(
        "Turn off an optimization, such as compile or graphs; may be repeated",
        panel=_MACHINE,
        metavar="NAME",
    ),
]
FewStepLora = Annotated[
    Path | None,
    _option(
        "A LoRA trained to paint in 4 to 8 steps; use it with --guidance-scale 1",
        panel=_MACHINE,
        metavar="FILE",
    ),
]
Predicts = Annotated[
    str | None,
    _option(
        "What the model predicts: epsilon, v, or v-zsnr (v with zero terminal SNR). By default, as the model "
        "says itself",
        panel=_MACHINE,
        metavar="WHAT",
    ),
]
LoraFolder = Annotated[
    Path | None,
    typer.Option(
        "--loras",
        help="Folder of the LoRA files that --lora names. By default, INPAINT_LORAS or loras in the models "
        "folder.",
        rich_help_panel=_MACHINE,
        metavar="DIR",
        show_default=False,
    ),
]
