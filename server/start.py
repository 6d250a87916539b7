"""From flags and variables to a running server: settings checked, the operator told, then served."""

import sys
from collections.abc import Mapping

from pydantic import ValidationError

from inpaint.errors import RequestError
from server.db import Database
from server.keys import Keys
from server.logs import configure
from server.serving import engine_client, listen, serve
from server.settings import Settings

_CURL = """\
  curl {url}/v1/sdxl-inpaint -o painted.jpg{key} \\
    -F image=@photo.jpg -F mask=@mask.png -F prompt='a red circle'
"""


def start(flags: Mapping[str, object]) -> None:
    """Serve until a signal ends it; ``flags`` win over ``INPAINT_*`` variables.

    Raises:
        RequestError: a setting is wrong, or the server would stand open to the network.
        BindError: the address cannot be listened on.
        InpaintError: the engine did not start.
    """
    settings = read_settings(flags)
    locked = _prepare_data(settings)
    if not settings.on_loopback and not locked and not settings.no_auth:
        raise RequestError(
            "host",
            f"{settings.host} can be reached from other machines, and no key exists; make one with "
            "`inpaint keys create --name somebody`, or pass --no-auth to let anybody in",
        )
    listener = listen(settings)
    configure(settings.log_level)
    sys.stderr.write(greeting(settings, listener.getsockname()[1], locked=locked and not settings.no_auth))
    serve(settings, engine_client(settings), listener)


def read_settings(flags: Mapping[str, object]) -> Settings:
    """Raises RequestError naming the first setting that is wrong."""
    try:
        return Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"]) or "settings"
        raise RequestError(f"--{name.replace('_', '-')}", str(first["msg"]).lower()) from None


def _prepare_data(settings: Settings) -> bool:
    """Make the data folder and the database; whether any key exists."""
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RequestError("--data", f"{settings.data} cannot be used: {error.strerror}") from error
    database = Database(settings.database)
    try:
        database.migrate()
        return Keys(database).any_exist()
    finally:
        database.close()


def greeting(settings: Settings, port: int, *, locked: bool) -> str:
    """What the operator reads: where, which model, who may, and a line to try."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = settings.public_url or f"http://{host}:{port}"
    who = "every request needs a key (inpaint keys list)" if locked else "no key is needed"
    if not locked and settings.on_loopback:
        who += ", and only this machine can reach it"
    if not locked and not settings.on_loopback:
        who = "NO KEY IS NEEDED, and other machines can reach it (--no-auth)"
    key = ' -H "x-api-key: $INPAINT_KEY"' if locked else ""
    return f"{url}  model {settings.model}; {who}\n{_CURL.format(url=url, key=key)}Ctrl-C stops it.\n"
