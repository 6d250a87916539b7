"""``inpaint serve``: passes its flags on to the ``server`` package."""

from pathlib import Path
from typing import Annotated

import typer

from inpaint.cli.lazy import not_installed
from inpaint.errors import OutputError

_CLUSTER_EXTRA = "Ray Serve is not installed; install it with: pip install 'sdxl-inpaint[server,cluster]'"


def serve(
    context: typer.Context,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
    model: Annotated[
        str, typer.Option(help="A name from `inpaint models list`, or a path; several: a,b.")
    ] = "demo",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    memory: Annotated[
        str,
        typer.Option(help="Memory plan: auto, resident, resident-8, offload-text, tiled, fp8 or streamed."),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="exact, or fp8: faster on newer GPUs, with slightly different pictures.")
    ] = "exact",
    predicts: Annotated[
        str | None,
        typer.Option(
            metavar="WHAT",
            help="What the model predicts: epsilon, v, or v-zsnr (v with zero terminal SNR). By default, as "
            "the model says itself.",
            show_default=False,
        ),
    ] = None,
    loras: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of the LoRA files that requests may name. By default, loras in the models folder.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int,
        typer.Option(
            help="Worker processes, one GPU each, and at least one for each model; 0 paints in the server's "
            "own process."
        ),
    ] = 1,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Paint on a Ray cluster: auto (this machine's), HOST:PORT of its head, or local (a new one)."
        ),
    ] = None,
    public_url: Annotated[str | None, typer.Option(help="This server's URL as its clients see it.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for keys, requests and pictures. By default, this user's data folder.",
            show_default=False,
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let in everyone who can reach the address, without a key.")
    ] = False,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
    log_level: Annotated[str, typer.Option(help="DEBUG, INFO, WARNING or ERROR.")] = "INFO",
    log_format: Annotated[
        str, typer.Option(help="json, lines (for people), or auto: lines on a terminal.")
    ] = "auto",
) -> None:
    """Serve the sdxl-inpaint API and a page to paint masks on.

    Flags other than --cluster and --open can also be set as variables: INPAINT_PORT for --port, and so on.
    """
    from inpaint.cli.run.settings import is_typed

    # Only flags that were typed: a default must not win over its INPAINT_ variable.
    typed = {
        name: value
        for name, value in context.params.items()
        if name not in ("cluster", "browse") and is_typed(context, name)
    }
    try:
        from server.start import start
    except ImportError as error:
        raise not_installed(error) from error
    if cluster is None:
        start(typed, browse=browse)
        return
    try:
        from server.ray.start import start as start_on_cluster
    except ImportError as error:
        raise OutputError(f"{_CLUSTER_EXTRA} ({error.name} is missing)") from error
    start_on_cluster(typed, cluster)
