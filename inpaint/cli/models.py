"""``inpaint models``: list, fetch, verify, import and export checksums.

Human text goes to stderr, data to stdout. Errors are raised, not caught: ``inpaint.cli`` turns them into one
sentence and an exit code.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from inpaint import weights

app = typer.Typer(name="models", help="List, fetch, verify and import models.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="As `inpaint models list` shows it.")]


@app.command("list")
def list_models(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a model, on stdout.")] = False,
) -> None:
    """List the models that have a name, and which of them are here."""
    rows = weights.listings(weights.models_dir())
    if as_json:
        for row in rows:
            typer.echo(json.dumps(_as_json(row)))
        return
    for name in weights.BUILT_IN:
        _say(f"{name:<28} {'comes with inpaint'}")
    for row in rows:
        state: str = row.state
        if row.state == "partial":
            state = f"{row.present_bytes / row.entry.size:.0%} fetched"
        _say(f"{row.entry.name:<28} {state:<14} {_gigabytes(row.entry.size):>9}  {row.entry.license}")
    _say(f"\nModels folder: {weights.models_dir()}")


@app.command()
def fetch(name: _Name) -> None:
    """Fetch a model once, verified; afterwards it loads without a network. Run it again to continue."""
    if name in weights.BUILT_IN:
        _say(f"{name} comes with inpaint; there is nothing to fetch")
        return
    root = weights.models_dir()
    entry = _entry(name, root)
    _say(f"{name}: {_gigabytes(entry.size)}, licence {entry.license} {entry.license_url}")
    with _progress_bar("fetching", transfer=True) as progress:
        folder = weights.fetch(entry, root, progress)
    _say(f"{name} is installed and verified in {folder}")


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
    _say(f"{name} is whole: {len(entry.files)} files, {_gigabytes(entry.size)}")


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A diffusers folder or a .safetensors file.")],
    name: Annotated[str, typer.Option("--name", help="To call it by: lower-case letters, digits and . _ -")],
) -> None:
    """Copy an SDXL checkpoint into the models folder; only safetensors weights are accepted."""
    with _progress_bar("copying") as progress:
        folder = weights.import_model(path, name, weights.models_dir(), progress)
    _say(f"{name} is imported into {folder}; paint with --model {name}")


@app.command()
def checksums(name: _Name) -> None:
    """Print a model's SHA256SUMS, for `sha256sum -c` inside its folder."""
    typer.echo(weights.sha256sums(_entry(name, weights.models_dir())), nl=False)


def _entry(name: str, root: Path) -> weights.Entry:
    if name in weights.BUILT_IN:
        raise typer.BadParameter(f"{name} comes with inpaint and has no folder here", param_hint="NAME")
    entry = weights.find_entry(name, root)
    if entry is None:
        raise weights.unknown(name, root)
    return entry


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


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _gigabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f} GB" if size_bytes >= 10_000_000 else f"{size_bytes / 1e6:.2f} MB"


@contextmanager
def _progress_bar(verb: str, *, transfer: bool = False) -> Iterator[weights.Progress]:
    """A bar on a terminal; elsewhere one line a file, so that a log shows where it was."""
    if not sys.stderr.isatty():
        seen: set[str] = set()

        def line(path: str, _done: int, _total: int) -> None:
            if path not in seen:
                seen.add(path)
                _say(f"{verb} {path}")

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
