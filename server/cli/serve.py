"""``inpaint serve``: hands over to the ``server`` package, which only this command needs."""

from pathlib import Path
from typing import Annotated

import typer

from inpaint.errors import OutputError

_EXTRA = "the HTTP server is not installed; install it with: pip install 'sdxl-inpaint[server]'"

_CLUSTER_EXTRA = "Ray Serve is not installed; install it with: pip install 'sdxl-inpaint[server,cluster]'"


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000")] = None,
    model: Annotated[
        str | None, typer.Option(help="A name from `inpaint models list`, or a path.", show_default="demo")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu, cuda or cuda:N.", show_default="auto")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="auto, float16, bfloat16 or float32.", show_default="auto")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory plan, see `inpaint doctor`.", show_default="auto")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="exact, or fp8: quicker, pictures that differ a little.", show_default="exact"),
    ] = None,
    loras: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the LoRA files that requests may name.", show_default="loras in the models folder"
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(help="Processes with a GPU each; 0 paints in the server's own.", show_default="1"),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Paint on a Ray cluster: auto (this machine's), HOST:PORT of its head, or local (a new one)."
        ),
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="This server's URL as its clients see it.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder for keys, requests and pictures.", show_default="this user's")
    ] = None,
    no_auth: Annotated[
        bool | None, typer.Option("--no-auth", help="Let anybody in who can reach the address.")
    ] = None,
    browse: Annotated[
        bool, typer.Option("--open", help="Show the page to paint on in this machine's browser.")
    ] = False,
    log_level: Annotated[
        str | None, typer.Option(help="DEBUG, INFO, WARNING or ERROR.", show_default="INFO")
    ] = None,
) -> None:
    """Serve the hosted sdxl-inpaint API. Every flag is also a variable: INPAINT_PORT and so on."""
    own = ("cluster", "browse")
    given = {name: value for name, value in locals().items() if value is not None and name not in own}
    try:
        from server.start import start
    except ImportError as error:
        raise OutputError(f"{_EXTRA} ({error.name} is missing)") from error
    if cluster is None:
        start(given, browse=browse)
        return
    try:
        from server.ray.start import start as start_on_cluster
    except ImportError as error:
        raise OutputError(f"{_CLUSTER_EXTRA} ({error.name} is missing)") from error
    start_on_cluster(given, cluster)
