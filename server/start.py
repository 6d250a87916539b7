"""The start of ``inpaint serve``: read the settings, check them, greet the operator, and serve."""

import os
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from inpaint.errors import RequestError
from server.app import create_app
from server.engines.client import EngineClient
from server.fetch.fetcher import Policy
from server.http.origin import is_loopback
from server.malloc import return_freed_memory
from server.observe.logs import configure
from server.settings import Settings, read_settings
from server.storage.database import Database
from server.storage.keys import Keys
from server.uvicorn_server import engine_client, listen, serve

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - how to reach a server on any address
_PAGE = "Paint in a browser at {url}/ or from a program:\n"
_CURL = """\
  curl {url}/v1/sdxl-inpaint -o painted.jpg{key} \\
    -F image=@photo.jpg -F mask=@mask.png -F prompt='a red circle'
"""


def start(
    flags: Mapping[str, object],
    *,
    engines: Callable[[Settings], EngineClient] = engine_client,
    policy: Callable[[Settings], Policy] = Policy.from_settings,
    browse: bool = False,
) -> None:
    """Serve until a signal ends the server.

    Args:
        flags: settings by name; they take precedence over ``INPAINT_*`` variables.
        engines: makes the engines; tests pass their own.
        policy: which URLs may be fetched. No setting allows private addresses, so tests pass their own, to
            fetch pictures from loopback.
        browse: open the page in this machine's browser.

    Raises:
        RequestError: a setting is wrong, or other machines could use the server without a key.
        BindError: the server cannot listen on the address.
        InpaintError: the engine did not start.
        KeyboardInterrupt: Ctrl-C was pressed a second time.
    """
    os.umask(0o077)  # prompts, pictures and tokens are nobody else's on this machine
    return_freed_memory()
    settings = read_settings(flags)
    locked = prepare(settings)
    refuse_open(settings, locked=locked)
    with listen(settings) as listener, _alone(settings):
        app = create_app(settings, engines(settings), policy=policy(settings))
        configure(settings.log_level, settings.log_format)
        port = listener.getsockname()[1]
        sys.stderr.write(greeting(settings, port, locked=locked and not settings.no_auth))
        if browse:
            # In a thread: it may block until the browser has the page, which waits until we serve.
            url = _url(_ANYWHERE.get(settings.host, settings.host), port)
            threading.Thread(target=_show, args=(url,), daemon=True).start()
        serve(app, listener)


@contextmanager
def _alone(settings: Settings) -> Iterator[None]:
    """Lock the data folder and the SQLite file against a second server.

    It would take over this one's requests at its start. The kernel releases the locks even if this process is
    killed.

    Raises:
        RequestError: another server uses one of the two.
    """
    file = Database(settings.database).file
    with ExitStack() as locks:
        problem = f"another server uses {settings.data}; stop it, or choose another folder for this one"
        locks.enter_context(_locked(settings.data / "server.lock", "--data", problem))
        if file is not None:
            problem = f"another server uses {file}; stop it, or choose another database for this one"
            locks.enter_context(_locked(Path(f"{file}.server.lock"), "INPAINT_DATABASE_URL", problem))
        yield


@contextmanager
def _locked(path: Path, setting: str, problem: str) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RequestError(setting, problem) from error
    except OSError as error:
        raise RequestError(setting, f"{path} cannot be used: {error.strerror}") from error
    with lock:
        yield


def prepare(settings: Settings) -> bool:
    """Create the data folder and the database, close them to other users, and return whether any key exists.

    Raises:
        RequestError: the folder cannot be created.
    """
    try:
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RequestError("--data", f"{settings.data} cannot be used: {error.strerror}") from error
    close_to_others(settings.data)
    database = Database(settings.database)
    try:
        database.migrate()
        return Keys(database).any_exist()
    finally:
        database.close()


_OURS = ("inpaint.db*", "server.lock", "pictures", "profiles")  # what the server makes in its data folder


def close_to_others(folder: Path) -> None:
    """Take the data folder from the machine's other users: it holds prompts and tokens.

    A folder with files of others in it, such as a home, stays as it is; only the server's own are closed.
    """
    ours = {path for pattern in _OURS for path in folder.glob(pattern)}
    if set(folder.iterdir()) <= ours:
        ours.add(folder)
    for path in ours:
        with suppress(OSError):  # another user's: what this server makes is closed by its umask
            if not path.is_symlink():
                path.chmod(path.stat().st_mode & 0o700)


def refuse_open(settings: Settings, *, locked: bool) -> None:
    """Refuse to start if other machines were to use the server without a key, unless ``--no-auth`` allows it.

    Raises:
        RequestError: names both ways out.
    """
    if locked or settings.no_auth:
        return
    if settings.public_url is not None and not is_loopback(urlsplit(settings.public_url).hostname or ""):
        raise RequestError(
            "--public-url",
            f"other machines are to use {settings.public_url}, and no key exists; create one with "
            "`inpaint keys create --name NAME`, or pass --no-auth to serve every client without a key",
        )
    if not settings.on_loopback:
        raise RequestError(
            "--host",
            f"other machines can reach {settings.host}, and no key exists; create one with "
            "`inpaint keys create --name NAME`, or pass --no-auth to serve every client without a key",
        )


def _show(url: str) -> None:
    if not webbrowser.open(url):
        sys.stderr.write(f"no browser could be started; open {url} in one\n")


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def greeting(settings: Settings, port: int, *, locked: bool) -> str:
    """Return the lines for the operator: URL, model, who may use it, the page, and a curl command to try."""
    url = (settings.public_url or _url(settings.host, port)).rstrip("/")
    if locked:
        access = "every request needs a key (inpaint keys list)"
    elif settings.no_auth:
        access = "NO KEY IS NEEDED by anyone who can reach it (--no-auth)"
    else:
        access = "no key is needed, and only programs on this machine are answered"
    key = ' -H "x-api-key: $INPAINT_KEY"' if locked else ""
    page = _PAGE.format(url=url) if settings.page else ""
    curl = _CURL.format(url=url, key=key)
    models = (
        f"models {', '.join(settings.models.names)}" if settings.models.several else f"model {settings.model}"
    )
    return f"{url}  {models}; {access}\n{page}{curl}Ctrl-C stops it.\n"
