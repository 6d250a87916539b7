"""``inpaint loras``: list, pin and verify LoRA files."""

import json
from pathlib import Path
from typing import Annotated

import typer

from inpaint.cli.terminal import say, show
from inpaint.errors import ModelError, RequestError
from inpaint.lora import files as lora_files
from inpaint.lora.lookup import Unusable

app = typer.Typer(name="loras", help="List, pin and verify LoRA files.", no_args_is_help=True)

_Name = Annotated[str, typer.Argument(metavar="NAME", help="A name from `inpaint loras list`.")]
_Folder = Annotated[
    Path | None,
    typer.Option(
        "--loras",
        metavar="DIR",
        help="Folder of LoRA files. By default, INPAINT_LORAS or loras in the models folder.",
        show_default=False,
    ),
]
_STATES = {"new": "not used yet", "pinned": "pinned", "changed": "changed since it was pinned"}


@app.command("list")
def list_loras(
    folder: _Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per LoRA.")] = False,
) -> None:
    """List the LoRAs that --lora and <lora:NAME:0.8> can use, and the files that they cannot use."""
    place = lora_files.loras_dir() if folder is None else folder
    try:
        files, unusable = lora_files.available_loras(folder), lora_files.unusable_loras(folder)
    except ModelError as error:
        raise ModelError(f"{place}: {error}") from None
    unfit = {one.path for one in unusable}
    files = [file for file in files if file.path not in unfit]
    if as_json:
        for row in [*map(_as_json, files), *map(_refused, unusable)]:
            typer.echo(json.dumps(row))
        return
    for file in files:
        size = f"{file.size_bytes / 1e6:.1f} MB"
        show(f"{file.name:<32} {size:>10}  {file.sha256[:12]:<12}  {_STATES[file.state]}")
    for one in unusable:
        show(f"{one.name:<32} cannot be used: {one.reason}")
    show(f"\nLoRA folder: {place}")


@app.command()
def pin(name: _Name, folder: _Folder = None) -> None:
    """Accept a LoRA file's present content, after you have replaced it on purpose."""
    file = lora_files.accept(_named(name, folder))
    say(f"{file.name} is pinned: sha256 {file.sha256}")


@app.command()
def verify(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="A name from `inpaint loras list`; all of them if left out."),
    ] = None,
    folder: _Folder = None,
) -> None:
    """Hash LoRA files again and compare them with their pins; new files are pinned."""
    files = lora_files.available_loras(folder) if name is None else [_named(name, folder)]
    for file in files:
        lora_files.verify(file)
    say(f"{len(files)} LoRA {'file matches its pin' if len(files) == 1 else 'files match their pins'}")


def _named(name: str, folder: Path | None) -> lora_files.LoraFile:
    try:
        return lora_files.find_lora(name, folder)
    except RequestError as error:
        raise RequestError("NAME", error.problem) from None


def _refused(one: Unusable) -> dict[str, object]:
    return {"name": one.name, "state": "unusable", "path": str(one.path), "reason": one.reason}


def _as_json(file: lora_files.LoraFile) -> dict[str, object]:
    return {
        "name": file.name,
        "state": file.state,
        "path": str(file.path),
        "size_bytes": file.size_bytes,
        "sha256": file.sha256 or None,
    }
