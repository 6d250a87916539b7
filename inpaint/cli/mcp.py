"""``inpaint mcp``: tools for AI agents, on standard input and output or on a port of this machine."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from inpaint.cli.run import options
from inpaint.errors import OutputError

if TYPE_CHECKING:
    from inpaint.cli.run.engine_options import EngineOptions
    from inpaint.mcp.backend import Backend

_INSTALL = "pip install 'sdxl-inpaint[mcp]'"


class Transport(StrEnum):
    """The ways to a client."""

    STDIO = "stdio"
    HTTP = "http"


def mcp(
    folder: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Folder whose pictures agents may use; may be given several times. By default, the current "
            "one.",
            show_default=False,
        ),
    ] = None,
    transport: Annotated[
        Transport, typer.Option(help="stdio for a client that starts this command, or http.")
    ] = Transport.STDIO,
    port: Annotated[int, typer.Option(min=0, max=65535, help="With http: port on 127.0.0.1.")] = 8001,
    url: Annotated[
        str | None,
        typer.Option(
            help="Paint with a server that runs, such as http://127.0.0.1:8000, instead of loading a model.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            envvar=["INPAINT_API_KEY", "INPAINT_KEY"], help="A key of that server.", show_default=False
        ),
    ] = None,
    model: options.Model = "demo",
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    memory: options.Memory = "auto",
    lora_folder: options.LoraFolder = None,
) -> None:
    """Let AI agents repaint pictures: an MCP server with the tools inpaint, remove, extend and describe.

    Agents read and write only below the folders. Results are new files; nothing is replaced.
    """
    from inpaint.cli.run.engine_options import EngineOptions

    try:
        from inpaint.mcp.serving import serve_http, serve_stdio
        from inpaint.mcp.tools import tools_server
    except ImportError as error:
        problem = f"the MCP SDK is not installed; install it with: {_INSTALL} ({error.name} is missing)"
        raise OutputError(problem) from error
    from inpaint.cli.terminal import say
    from inpaint.mcp.folders import Folders

    backend = _backend(url, key, EngineOptions(model, device, dtype, memory, "exact", (), None, lora_folder))
    server = tools_server(Folders.of(folder or [Path()]), backend)
    try:
        if transport is Transport.STDIO:
            serve_stdio(server)
        else:
            serve_http(server, port, lambda where: say(f"{where} is ready for MCP clients; Ctrl-C stops it"))
    finally:
        backend.close()


def _backend(url: str | None, key: str | None, engine_options: "EngineOptions") -> "Backend":
    """Return the server that is named, else an engine of this process.

    Raises:
        RequestError: the URL is not one.
    """
    from inpaint.mcp.backend import EngineBackend
    from inpaint.mcp.remote import ServerBackend

    if url is not None:
        return ServerBackend(url, key)
    return EngineBackend(engine_options.engine)
