"""``inpaint run``: its options and their defaults; their help is in ``options``, the work in ``batch``."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from inpaint.cli.help import examples
from inpaint.cli.run import options
from inpaint.errors import RequestError
from inpaint.request import DEFAULTS, check_settings

if TYPE_CHECKING:
    from inpaint.cli.run.tasks import Refused, Task, TaskSettings


RUN_EXAMPLES = examples(
    "inpaint run photo.jpg --mask mask.png -p 'a red door'",
    "inpaint run photos/ --mask masks/ -p 'a red door' -o painted/",
    "inpaint run photo.jpg --select 320,240 -p 'a red door'",
    "inpaint run photo.jpg --extend 0,0,50%,0 -p 'more of the meadow'",
)


def run(
    context: typer.Context,
    images: options.Images = None,
    prompt: options.Prompt = None,
    mask: options.Mask = None,
    negative_prompt: options.NegativePrompt = DEFAULTS["negative_prompt"],
    scheduler: options.Scheduler = DEFAULTS["scheduler"],
    num_inference_steps: options.Steps = DEFAULTS["num_inference_steps"],
    guidance_scale: options.GuidanceScale = DEFAULTS["guidance_scale"],
    guidance_rescale: options.GuidanceRescale = DEFAULTS["guidance_rescale"],
    strength: options.Strength = DEFAULTS["strength"],
    seed: options.Seed = DEFAULTS["seed"],
    samples: options.Samples = DEFAULTS["samples"],
    guidance_interval: options.GuidanceInterval = None,  # text; settings_from reads it and the next
    pace: options.Pace = DEFAULTS["pace"],
    loras: options.Loras = None,
    area: options.Area = DEFAULTS["area"],
    padding: options.Padding = DEFAULTS["padding"],
    grow: options.Grow = DEFAULTS["grow"],
    feather: options.Feather = DEFAULTS["feather"],
    lengths: options.Lengths = DEFAULTS["lengths"],
    fill: options.Fill = DEFAULTS["fill"],
    color_match: options.ColorMatch = DEFAULTS["color_match"],
    soft: options.Soft = DEFAULTS["soft"],
    mask_channel: options.MaskChannel = DEFAULTS["mask_channel"],
    invert_mask: options.InvertMask = DEFAULTS["invert_mask"],
    resize_mask: options.ResizeMask = DEFAULTS["resize_mask"],
    extend: options.Extend = None,
    select: options.Select = None,  # selecting_from reads it and the next six
    select_not: options.SelectNot = None,
    select_box: options.SelectBox = None,
    select_subject: options.SelectSubject = False,
    select_background: options.SelectBackground = False,
    select_with: options.SelectWith = "auto",
    save_mask: options.SaveMask = None,
    recursive: options.Recursive = False,
    by_null: options.ByNull = False,
    jobs: options.Jobs = None,
    source: options.From = None,
    output: options.OutputPath = None,
    overwrite: options.Overwrite = False,
    resume: options.Resume = False,
    report: options.ReportPath = None,
    fail_fast: options.FailFast = False,
    with_metadata: options.Metadata = True,
    as_json: options.AsJson = False,
    dry_run: options.DryRun = False,
    model: options.Model = "demo",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory: options.Memory = "auto",
    precision: options.Precision = "exact",
    without: options.Without = None,
    few_step_lora: options.FewStepLora = None,
    predicts: options.Predicts = None,
    lora_folder: options.LoraFolder = None,
) -> None:
    """Repaint the white part of a mask in one or more pictures.

    Pixels away from the mask stay as they are, bit for bit in PNG, TIFF and lossless WebP.

    Every picture keeps its size, format, colour profile, EXIF, XMP and IPTC; AVIF and HEIC become PNG.
    """
    from inpaint.cli.flags import flags_of
    from inpaint.cli.run.batch import Batch
    from inpaint.cli.run.engine_options import EngineOptions
    from inpaint.cli.run.inputs import names_one
    from inpaint.cli.run.masks import MaskChoice
    from inpaint.cli.run.outputs import Output
    from inpaint.cli.run.resume import made_of
    from inpaint.cli.run.selecting import selecting_from
    from inpaint.cli.run.settings import left_out_of, model_from, settings_from
    from inpaint.cli.run.tasks import TaskSettings, margins
    from inpaint.cli.terminal import say

    alone = jobs is None and names_one(images or [])
    made = made_of(source) if source else None
    task_settings = TaskSettings(
        request=settings_from(context, made),
        mask=MaskChoice(mask),
        extend=margins(extend) if extend is not None else (0, 0, 0, 0),
        output=Output(output, several=not alone),
        select=selecting_from(context.params, alone=alone, device=device),
    )
    name = model_from(context, made, source)
    if made is not None and source is not None:
        for sentence in left_out_of(context, made, task_settings.request, source):
            say(f"warning: {sentence}")
    work = Batch(
        tasks=_tasks(images or [], jobs, task_settings, recursive=recursive, by_null=by_null),
        engine_options=EngineOptions(
            name, device, dtype, memory, precision, tuple(without or ()), few_step_lora, lora_folder, predicts
        ),
        report=report,
        flags=flags_of(context.command),
        alone=alone,
        overwrite=overwrite,
        resume=resume,
        fail_fast=fail_fast,
        with_metadata=with_metadata,
        as_json=as_json,
    )
    if dry_run:
        work.dry_run()
    else:
        work.run()


_NOTHING = (
    "name a picture, a folder or --jobs FILE, for example: inpaint run photo.jpg --mask mask.png "
    "-p 'a red door' (inpaint run --help lists every option)"
)


def _tasks(
    images: list[str], jobs: Path | None, task_settings: "TaskSettings", *, recursive: bool, by_null: bool
) -> "list[Task | Refused]":
    """Return the tasks that the arguments or the jobs file ask for.

    Raises:
        RequestError: both are given, or neither; there is no prompt; a setting is wrong; no picture is found.
    """
    from inpaint.cli.run.inputs import Inputs
    from inpaint.cli.run.tasks import tasks_in, tasks_of
    from inpaint.cli.terminal import say

    if bool(images) == (jobs is not None):
        raise RequestError("image", "give pictures or --jobs FILE, not both" if images else _NOTHING)
    if jobs is not None:
        for name, value in task_settings.request.items():  # each alone: a line may change the other
            if value is not None:
                check_settings({name: value})
        return tasks_in(jobs, task_settings)
    if task_settings.request["prompt"] is None:
        raise RequestError("prompt", "say what to paint, with -p TEXT")
    check_settings(task_settings.request)
    excluded = [home for home in (task_settings.mask.home, task_settings.output.home) if home]
    inputs = Inputs.named_by(images, recursive=recursive, by_null=by_null, excluded=excluded)
    if inputs.left_out:
        say(f"skipped {inputs.left_out} of the files found, as masks or earlier results")
    if line := inputs.others_line():
        say(line)
    return tasks_of(inputs.found, task_settings)
