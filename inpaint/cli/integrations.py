"""``inpaint krita`` and ``inpaint comfyui``: put the plugin and the node into those programs."""

from pathlib import Path
from typing import Annotated

import typer

from inpaint.cli.terminal import say
from inpaint.errors import RequestError

krita = typer.Typer(name="krita", help="Install the plugin for Krita.", no_args_is_help=True)
comfyui = typer.Typer(name="comfyui", help="Install the node for ComfyUI.", no_args_is_help=True)


@krita.callback()
def _krita() -> None:
    """Install the plugin for Krita."""


@comfyui.callback()
def _comfyui() -> None:
    """Install the node for ComfyUI."""


@krita.command("install")
def install_in_krita(
    folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Krita's resource folder (Settings → Manage Resources → Open Resource Folder). By default, "
            "that of each Krita that is found.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Copy the plugin into Krita, over an older one if there is one."""
    from inpaint.files import in_home
    from inpaint.integrations.install import install_plugin
    from inpaint.integrations.places import resource_folders

    folders = resource_folders() if folder is None else [in_home(folder, "folder")]
    if not folders:
        raise RequestError(
            "folder",
            "no Krita of this user was found; start Krita once, or give its resource folder (in Krita: "
            "Settings → Manage Resources → Open Resource Folder)",
        )
    for one in folders:
        say(f"The plugin is in {install_plugin(one)}.")
    say(
        "Start Krita again, and enable SDXL Inpaint in Settings → Configure Krita → Python Plugin Manager.\n"
        "After one more start, show its docker with Settings → Dockers → SDXL Inpaint."
    )


@comfyui.command("install")
def install_in_comfyui(
    folder: Annotated[Path, typer.Option(metavar="DIR", help="ComfyUI's folder, with custom_nodes in it.")],
) -> None:
    """Copy the node into ComfyUI, over an older one if there is one."""
    from inpaint.files import in_home
    from inpaint.integrations.install import install_node

    say(f"The node is {install_node(in_home(folder, 'folder'))}.")
    say(
        "Start ComfyUI again, and add the node Inpaint (sdxl-inpaint server) from the category inpaint.\n"
        "Give it the address of a server that `inpaint serve` has started."
    )
