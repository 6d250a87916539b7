"""``inpaint models``: list, fetch, verify, import, merge, remove and export checksums.

Lists and data go to stdout, progress to stderr. Errors are raised, not caught: ``inpaint.cli`` turns them
into one sentence and an exit code.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from inpaint import weights
from inpaint.cli.help import examples
from inpaint.cli.terminal import say, show
from inpaint.demo import demo_checkpoint
from inpaint.errors import ModelError

app = typer.Typer(
    name="models",
    help="List, fetch, import, merge and remove models.",
    no_args_is_help=True,
    epilog=examples(
        "inpaint models list",
        "inpaint models fetch sdxl-inpainting",
        "inpaint models import checkpoint.safetensors --name mine",
    ),
)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `inpaint models list`.")]


def _new_name(default: str) -> typer.models.OptionInfo:
    return typer.Option(  # type: ignore[no-any-return]
        "--name",
        help=f"Name of the new model, in lower-case letters, digits and . _ -; by default, {default}.",
        show_default=False,
    )


_Predicts = Annotated[
    str | None,
    typer.Option(
        metavar="WHAT",
        help="What the model predicts: epsilon, v, or v-zsnr (v with zero terminal SNR); kept with the new "
        "model. By default, as the files say.",
        show_default=False,
    ),
]


class _Vae(Enum):
    """The model that a merged model has its VAE from."""

    inpaint = "inpaint"
    style = "style"


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per model.")] = False,
) -> None:
    """List the models that can be used by name, and whether they are installed."""
    rows = weights.listings(weights.models_dir())
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_as_json(row)))
        return
    for name in weights.BUILT_IN:
        show(f"{name:<28} {'comes with inpaint'}")
    for row in rows:
        state: str = row.state
        if row.state == "partial":
            state = f"{row.present_bytes / row.entry.size:.0%} fetched"
        show(f"{row.entry.name:<28} {state:<14} {_gigabytes(row.entry.size):>9}  {row.entry.license}")
    show(f"\nModels folder: {weights.models_dir()}")


@app.command()
def fetch(name: _Name) -> None:
    """Download and verify a model; run it again to continue an interrupted download.

    Once fetched, the model loads without a network.
    """
    if name in weights.BUILT_IN:
        say(f"{name} comes with inpaint; there is nothing to fetch")
        return
    root = weights.models_dir()
    entry = _entry(name, root)
    say(f"{name}: {_gigabytes(entry.size)}, licence {entry.license} {entry.license_url}")
    with _progress_bar("fetching", transfer=True) as progress:
        folder = weights.fetch(entry, root, progress)
    say(f"{name} is installed and verified in {folder}")


@app.command()
def verify(
    name: _Name,
    deep: Annotated[bool, typer.Option("--deep", help="Hash every file again.")] = False,
) -> None:
    """Check that a model's files are exactly those that were pinned or imported."""
    root = weights.models_dir()
    entry = _entry(name, root)
    with _progress_bar("verifying") as progress:
        weights.verify(entry, root / entry.target, deep=deep, progress=progress)
    say(f"{name} is intact: {len(entry.files)} files, {_gigabytes(entry.size)}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A diffusers folder or a .safetensors file.")],
    name: Annotated[str | None, _new_name("taken from the file's name")] = None,
    parts_from: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Where to take the VAE or text encoders from that the file lacks: a diffusers folder, or a "
            "model's name.",
        ),
    ] = None,
    predicts: _Predicts = None,
) -> None:
    """Copy an SDXL checkpoint into the models folder. Only safetensors weights are accepted."""
    root = weights.models_dir()
    name = name or weights.name_for(path)
    with _progress_bar("copying") as progress:
        if parts_from is None:
            folder = weights.import_model(path, name, root, progress, predicts=predicts)
        else:
            donor = _checkpoint(parts_from, root).path
            folder = weights.import_completed(path, donor, name, root, progress, predicts=predicts)
    say(f"{name} is imported into {folder}; paint with --model {name}")
    for note in weights.notes(folder):
        say(note)
    _say_needs_configs(name, root)


@app.command(no_args_is_help=True)
def merge(
    inpaint: Annotated[str, typer.Argument(metavar="INPAINT", help="The inpainting model to start from.")],
    style: Annotated[str, typer.Argument(metavar="STYLE", help="The model with the style.")],
    base: Annotated[
        str, typer.Option(metavar="MODEL", help="The model that STYLE was fine-tuned from.")
    ] = "sdxl-base",
    name: Annotated[str | None, _new_name("STYLE-inpainting")] = None,
    alpha: Annotated[float, typer.Option(help="How much of the style to add: 1 is all of it.")] = 1.0,
    vae: Annotated[
        _Vae, typer.Option(help="Whose VAE to use; INPAINT's is known to work in fp16.")
    ] = _Vae.inpaint,
    predicts: _Predicts = None,
) -> None:
    """Merge a style into an inpainting model: INPAINT + alpha · (STYLE − BASE), saved as a new model.

    Each of the three is a name from `inpaint models list`, a diffusers folder or a .safetensors file.
    The licences of all three apply to the result.
    """
    root = weights.models_dir()
    asked = ((inpaint, True), (style, False), (base, False))
    own, styled, based = (_checkpoint(model, root, whole=whole, predicts=predicts) for model, whole in asked)
    name = name or f"{weights.name_for(Path(style))[:50]}-inpainting"
    with _progress_bar("merging") as progress:
        merged = weights.merge_models(
            own,
            styled,
            based,
            name,
            root,
            alpha=alpha,
            vae=vae.value,
            predicts=predicts,
            progress=progress,
        )
    for component in merged.kept:
        say(f"{style} has no {component}, so that of {inpaint} is kept")
    say(f"{name} is in {merged.folder}; paint with --model {name}")
    _say_needs_configs(name, root)


@app.command()
def remove(name: _Name) -> None:
    """Delete a fetched or imported model, or an unfinished download, without asking."""
    size = weights.remove_model(name, weights.models_dir())
    say(f"{name} is removed; this freed {_gigabytes(size)}")


app.command("rm", hidden=True)(remove)


@app.command()
def checksums(name: _Name) -> None:
    """Print a model's SHA256SUMS, to be checked with `sha256sum -c` in its folder."""
    typer.echo(weights.sha256sums(_entry(name, weights.models_dir())), nl=False)


def _entry(name: str, root: Path) -> weights.Entry:
    if name in weights.BUILT_IN:
        raise typer.BadParameter(
            f"{name} comes with inpaint and is not in the models folder", param_hint="NAME"
        )
    entry = weights.find_entry(name, root)
    if entry is None:
        raise weights.unknown(name, root)
    return entry


def _checkpoint(
    model: str, root: Path, *, whole: bool = True, predicts: str | None = None
) -> weights.Checkpoint:
    """Return the checkpoint that a name or a path stands for."""
    if model == "demo":
        return demo_checkpoint()
    return weights.resolve(model, root, whole=whole, predicts=predicts)


def _say_needs_configs(name: str, root: Path) -> None:
    """Print how to fetch SDXL's configurations, once, if the model is a single file and needs them."""
    if weights.resolve(name, root).kind == "folder":
        return
    try:
        weights.config_folder(root)
    except ModelError as error:
        say(f"before the first picture: {error}")


def _as_json(row: weights.Listing) -> dict[str, object]:
    entry = row.entry
    return {
        "name": entry.name,
        "state": row.state,
        "path": str(row.path),
        "size_bytes": entry.size,
        "present_bytes": row.present_bytes,
        "license": entry.license,
        "license_url": entry.license_url,
    }


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 10_000_000 else f"{size_bytes / 1e6:.2f} MB"


@contextmanager
def _progress_bar(verb: str, *, transfer: bool = False) -> Iterator[weights.Progress]:
    """Show a bar on a terminal; elsewhere print one line per file, so that a log shows how far it came."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(path: str, _done: int, _total: int) -> None:
            if path not in seen:
                seen.add(path)
                say(f"{verb} {path}")

        yield line
        return
    from rich import progress as rich
    from rich.console import Console

    columns = [rich.TextColumn("{task.description}"), rich.BarColumn(), rich.DownloadColumn()]
    if transfer:
        columns.append(rich.TransferSpeedColumn())
    with rich.Progress(*columns, rich.TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(verb, total=None)
        yield lambda path, done, total: bar.update(
            task, description=Path(path).name, completed=done, total=total
        )
