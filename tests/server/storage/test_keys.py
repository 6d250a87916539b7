"""API keys: created once, stored as hashes, and refused with one text; on SQLite and on Postgres."""

import hmac
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import select

from inpaint.errors import RequestError
from server.errors import NotFoundError, UnauthorizedError
from server.storage.database import Database
from server.storage.keys import BAD_KEY, DEFAULT_SCOPES, NO_KEY, Keys
from server.storage.tables import keys as table
from tests.support.examples import examples

pytest_plugins = ["tests.support.postgres"]


class Clock:
    """A clock that a test sets."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(database: Database, clock: Clock) -> Keys:
    return Keys(database, clock)


def refused(authenticate: Callable[[str | None], object], token: str | None) -> str:
    """Return the text that a token is refused with."""
    with pytest.raises(UnauthorizedError) as caught:
        authenticate(token)
    return str(caught.value)


def test_a_new_key_opens_the_server(keys: Keys) -> None:
    """The printed token is all that its owner needs."""
    key, token = keys.create("anna", scopes={"sdxl-inpaint", "metrics"})
    assert token.startswith(f"inp_{key.id}_")
    assert keys.authenticate(token) == key
    assert keys.list() == [key]
    assert (key.name, key.scopes, key.balance_micro) == ("anna", {"sdxl-inpaint", "metrics"}, 0)
    assert keys.create("bob")[0].scopes == DEFAULT_SCOPES


def test_the_secret_is_nowhere_in_the_database(keys: Keys, database: Database) -> None:
    """A stolen backup opens nothing."""
    _, token = keys.create("anna")
    with database.read() as connection:
        row = connection.execute(select(table)).one()
    assert token.split("_")[2] not in repr(row)


@pytest.mark.parametrize("token", [None, ""])
def test_no_key_has_another_text_than_a_bad_one(keys: Keys, token: str | None) -> None:
    """Clients of the hosted API compare its two texts."""
    assert refused(keys.authenticate, token) == NO_KEY == "Missing Authorization or x-api-key in header"


def test_every_wrong_token_is_refused_with_one_text(keys: Keys) -> None:
    """A client that guesses must not learn which part of a guess was right."""
    key, token = keys.create("anna")
    other = keys.create("bob")[1]
    secret = token.split("_")[2]
    wrong = "0" * 48 if secret[0] != "0" else "1" * 48
    for guess in (
        f"inp_{key.id}_{wrong}",
        f"inp_{key.id}_{other.split('_')[2]}",
        f"inp_{'0' * 12}_{secret}",
        f"inp_{key.id}_",
        f"inp_{key.id}_{secret.upper() + 'x'}",
        token + "0",
        token + "\n",
        f" {token}",
        secret,
    ):
        assert refused(keys.authenticate, guess) == BAD_KEY
    assert BAD_KEY == "Unauthorized. API key is invalid or may have expired."


def test_a_token_of_any_kind_is_answered_with_401(database: Database) -> None:
    """NUL, half surrogates and megabytes of text do not reach the database or cause a 500."""
    keys = Keys(database)
    hexadecimal = st.text("0123456789abcdef٠", min_size=10, max_size=50)
    likely = st.builds("inp_{}_{}".format, hexadecimal, hexadecimal)
    surrogates = st.text(st.characters(codec=None), max_size=40)

    @given(
        st.one_of(likely, surrogates, surrogates.map("inp_000000000000_{}".format), st.just("inp_" * 10**6))
    )
    @examples(60, suppress_health_check=list(HealthCheck), database=None)
    def check(token: str) -> None:
        assert refused(keys.authenticate, token) in (NO_KEY, BAD_KEY)

    check()


def test_an_unknown_id_is_compared_like_a_known_one(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the time of a refusal would reveal which ids exist; the comparison itself takes constant time."""
    compared: list[str] = []
    real = hmac.compare_digest

    def compare(given: str, kept: str) -> bool:
        compared.append(kept)
        return real(given, kept)

    key, token = keys.create("anna")
    monkeypatch.setattr("hmac.compare_digest", compare)
    refused(keys.authenticate, f"inp_{'0' * 12}_{'0' * 48}")
    refused(keys.authenticate, f"inp_{key.id}_{'0' * 48}")
    keys.authenticate(token)
    assert [len(kept) for kept in compared] == [64, 64, 64]


def test_the_dummy_of_unknown_ids_opens_nothing(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even a secret that matches the dummy is refused, because no key belongs to it."""
    monkeypatch.setattr("hmac.compare_digest", lambda _given, _kept: True)
    assert refused(keys.authenticate, f"inp_{'0' * 12}_{'0' * 48}") == BAD_KEY


def test_an_expired_key_is_refused_from_that_second_on(keys: Keys, clock: Clock) -> None:
    """A key for a month works for a month and no longer."""
    key, token = keys.create("anna", expires_at=2000.0)
    clock.now = 1999.0
    assert keys.authenticate(token) == key
    assert keys.active(key.id)
    clock.now = 2000.0
    assert refused(keys.authenticate, token) == BAD_KEY
    assert not keys.active(key.id)


def test_a_revoked_key_is_refused_immediately_and_for_good(keys: Keys, clock: Clock) -> None:
    """One command closes a leaked key; a second one keeps the time of the first."""
    key, token = keys.create("anna")
    keys.revoke(key.id)
    clock.now = 5000.0
    keys.revoke(key.id)
    assert refused(keys.authenticate, token) == BAD_KEY
    assert not keys.active(key.id)
    assert [key.revoked_at for key in keys.list()] == [1000.0]


def test_revoking_one_key_leaves_the_others(keys: Keys) -> None:
    """Revoking a key must not stop its owner's other keys or those of others."""
    one, other = keys.create("anna"), keys.create("bob")
    keys.revoke(one[0].id)
    assert keys.authenticate(other[1]).id == other[0].id


def test_a_server_whose_last_key_was_revoked_stays_closed(keys: Keys) -> None:
    """Only a server that never had a key is open."""
    assert not keys.any_exist()
    key, _ = keys.create("anna")
    keys.revoke(key.id)
    assert keys.any_exist()


@pytest.mark.parametrize("key_id", ["", "000000000000", "\0", "\ud800", "' OR 1=1 --"])
def test_an_unknown_key_is_not_active_and_cannot_be_revoked(keys: Keys, key_id: str) -> None:
    """A typo in `inpaint keys revoke` must not look as if it had worked."""
    assert not keys.active(key_id)
    with pytest.raises(NotFoundError, match="there is no key"):
        keys.revoke(key_id)


@pytest.mark.parametrize("name", ["", " ", "a\0b", "a\nb", "\ud800", "x" * 101])
def test_a_name_that_cannot_be_listed_is_refused(keys: Keys, name: str) -> None:
    """`inpaint keys list` prints one name per line."""
    with pytest.raises(RequestError, match="name: must be 1 to 100 printable characters"):
        keys.create(name)


@pytest.mark.parametrize("scopes", [[], [""], ["ok", "not ok"], ["\ud800"]])
def test_a_scope_is_a_word(keys: Keys, scopes: list[str]) -> None:
    """A key without scopes, or with a misspelt one, is refused when it is created."""
    with pytest.raises(RequestError, match="scope: must be a word"):
        keys.create("anna", scopes=scopes)
