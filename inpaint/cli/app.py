"""The root of the command line: registers every command, and holds the short ones."""

import json
from pathlib import Path
from typing import Annotated

import typer

import inpaint
from inpaint.cli import integrations, loras, models
from inpaint.cli.erase import erase
from inpaint.cli.help import examples
from inpaint.cli.lazy import LazyGroup
from inpaint.cli.mcp import mcp
from inpaint.cli.run.command import RUN_EXAMPLES, run
from inpaint.cli.terminal import show
from inpaint.schedulers import SCHEDULERS

app = typer.Typer(
    cls=LazyGroup,
    help="Repaint part of a picture with SDXL, on your own GPU.",
    epilog=examples(
        "inpaint run photo.jpg --mask mask.png -p 'a red door'",
        "inpaint serve --open",
        "inpaint models fetch sdxl-inpainting",
    ),
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(models.app)
app.add_typer(loras.app)
app.add_typer(integrations.krita)
app.add_typer(integrations.comfyui)
app.command(epilog=RUN_EXAMPLES)(run)
app.command(no_args_is_help=True, epilog=examples("inpaint erase photo.jpg --mask mask.png"))(erase)
app.command()(mcp)


def _version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"inpaint {inpaint.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            callback=lambda v: _version(wanted=v),
            is_eager=True,
            help="Show the version and exit.",
        ),
    ] = False,
) -> None:
    """Repaint part of a picture with SDXL, on your own GPU."""


@app.command()
def schedulers(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per scheduler.")] = False,
) -> None:
    """List the schedulers by the names that --scheduler takes."""
    width = max(map(len, SCHEDULERS))
    for name, spec in SCHEDULERS.items():
        also = [known for known in spec.known_as if known != name]
        if as_json:
            facts = {"class": spec.class_name, "calls_per_step": spec.order, "also": also}
            typer.echo(json.dumps({"name": name, **facts}))
        else:
            notes = [f"also {known}" for known in also] + ["two model calls a step"] * (spec.order == 2)
            typer.echo(f"{name:<{width}}  {spec.class_name}" + (f"  ({', '.join(notes)})" if notes else ""))


@app.command(epilog=examples("inpaint info painted.png"))
def info(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A PNG, JPEG, WebP, TIFF or AVIF file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show a picture's size, format and profile, and the settings it was painted with."""
    from inpaint.cli.info import describe, lines

    facts = describe(picture)
    if as_json:
        typer.echo(json.dumps(facts))
    else:
        show("\n".join(lines(facts)))


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check this machine: versions, GPU, memory plan and installed models."""
    from inpaint.cli.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps({finding.what: finding.found for finding in findings}))
    else:
        for finding in findings:
            show(f"{'ok ' if finding.fine else '!! '} {finding.what:<14} {finding.found}")
            if finding.advice:
                show(f"                   → {finding.advice}")
    if not all(finding.fine for finding in findings):
        raise typer.Exit(1)
