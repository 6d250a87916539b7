"""``inpaint keys`` and ``inpaint credits``: the API keys of the server, and their credits.

Both work on the server's database, also while it runs. A new key goes to stdout, so that
``KEY=$(inpaint keys create)`` holds nothing else; text for people goes to stderr.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from inpaint.cli.lazy import not_installed
from inpaint.cli.terminal import say
from inpaint.errors import InpaintError

if TYPE_CHECKING:
    from server.storage.database import Database
    from server.storage.keys import Key

app = typer.Typer(
    help="Create, list and revoke the server's API keys.", no_args_is_help=True, add_completion=False
)
credits_app = typer.Typer(
    help="Give credits to API keys, and show them.", no_args_is_help=True, add_completion=False
)

_DAY_S = 86400.0

_Data = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The server's data folder, as for `inpaint serve`. By default, this user's data folder.",
        show_default=False,
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, one object per line.")]
_Id = Annotated[str, typer.Argument(metavar="ID", help="A key's ID from `inpaint keys list`.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Label of the key, such as its owner's name.")] = "key",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="sdxl-inpaint (the default) to paint, or metrics to read /metrics; may be repeated.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        float | None,
        typer.Option(
            help="Days until the key expires. By default, it never does.", show_default=False, min=0
        ),
    ] = None,
    data: _Data = None,
    as_json: _Json = False,
) -> None:
    """Create a key and print it; it cannot be shown again."""
    with _database(data) as database:
        from server.storage.keys import DEFAULT_SCOPES, Keys

        expires_at = None if days is None else time.time() + days * _DAY_S
        key, token = Keys(database).create(name, scopes=scope or DEFAULT_SCOPES, expires_at=expires_at)
    if as_json:
        typer.echo(json.dumps(_as_json(key) | {"key": token}))
        return
    say(f"Created key {key.id} ({key.name}). Save it now: it is stored as a hash and cannot be shown again.")
    typer.echo(token)


@app.command("list")
def list_keys(data: _Data = None, as_json: _Json = False) -> None:
    """List the keys, with their credits and whether they are valid."""
    with _database(data) as database:
        from server.storage.keys import Keys
        from server.storage.ledger import format_credits

        keys = Keys(database).list()
    for key in keys:
        if as_json:
            typer.echo(json.dumps(_as_json(key)))
        else:
            scopes = " ".join(sorted(key.scopes))
            say(
                f"{key.id}  {_state(key):<18} {format_credits(key.balance_micro):>12}  {key.name}  [{scopes}]"
            )
    if not keys and not as_json:
        say("There are no keys; make one with: inpaint keys create")


@app.command()
def revoke(key_id: _Id, data: _Data = None) -> None:
    """Revoke a key for good; its queued requests fail and are refunded."""
    with _database(data) as database:
        from server.storage.keys import Keys

        Keys(database).revoke(key_id)
    say(f"Key {key_id} is revoked.")


@credits_app.command()
def add(
    key_id: _Id,
    credits: Annotated[  # noqa: A002 - the name in --help
        str,
        typer.Argument(metavar="CREDITS", help="How many; a negative number, after `--`, takes some back."),
    ],
    note: Annotated[str, typer.Option(help="Reason, shown by `inpaint credits show`.")] = "",
    data: _Data = None,
) -> None:
    """Give credits to a key."""
    with _database(data) as database:
        from server.storage.ledger import Ledger, format_credits, parse_credits

        balance = Ledger(database).add(key_id, parse_credits(credits), note)
    say(f"Key {key_id} has {format_credits(balance)} credits.")


@credits_app.command()
def show(key_id: _Id, data: _Data = None, as_json: _Json = False) -> None:
    """Show a key's credits and every change to them; fails if the two disagree."""
    with _database(data) as database:
        from server.storage.ledger import MICRO, Ledger, format_credits

        ledger = Ledger(database)
        balance, entries, wrong = ledger.balance(key_id), ledger.entries(key_id), ledger.check(key_id)
    for entry in entries:
        if as_json:
            fields = {
                "kind": entry.kind,
                "credits": entry.amount_micro / MICRO,
                "created_at": entry.created_at,
            }
            typer.echo(json.dumps(fields | {"request_id": entry.request_id, "note": entry.note}))
        else:
            amount, about = format_credits(entry.amount_micro), entry.request_id or entry.note
            say(f"{_date(entry.created_at)}  {entry.kind:<8} {amount:>12}  {about}".rstrip())
    if as_json:
        typer.echo(json.dumps({"kind": "balance", "credits": balance / MICRO}))
    else:
        say(f"Key {key_id} has {format_credits(balance)} credits.")
    if wrong:
        raise InpaintError(f"the ledger is damaged: {wrong[0]}")


@contextmanager
def _database(data: Path | None) -> "Iterator[Database]":
    """Open the server's database, with its tables up to date."""
    try:
        from server.settings import read_settings
        from server.storage.database import Database
    except ImportError as error:
        raise not_installed(error) from error
    settings = read_settings({} if data is None else {"data": data})
    with Database(settings.database) as database:
        database.migrate()
        yield database


def _as_json(key: "Key") -> dict[str, Any]:
    from server.storage.ledger import MICRO

    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "credits": key.balance_micro / MICRO,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "usable": key.usable(time.time()),
    }


def _state(key: "Key") -> str:
    if key.revoked_at is not None:
        return f"revoked {_date(key.revoked_at)}"
    if key.expires_at is None:
        return "valid"
    word = "until" if key.usable(time.time()) else "expired"
    return f"{word} {_date(key.expires_at)}"


def _date(unix_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(unix_s))
