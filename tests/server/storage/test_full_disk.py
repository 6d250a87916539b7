"""A disk that is full for a while, a damaged database, two servers on one file, and who may read it."""

import os
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select, text

from inpaint.errors import BusyError, OutputError, RequestError
from server.settings import Settings
from server.start import _alone, close_to_others, prepare
from server.storage.database import Database
from server.storage.tables import requests
from tests.support.server_process import ServerProcess, accounts, body, callers, eventually, program

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
SLOW = {"prompt": "slow", "num_inference_steps": 40}  # two seconds of the stub worker
COST = 36 * 48 * 32 / 1e6


@contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """Let a process write nothing to any file, as on a full disk; pipes and sockets work on."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_is_full_for_a_while_costs_nobody_anything(tmp_path: Path) -> None:
    """The picture that could not be kept is refunded or kept as soon as there is room, without a restart."""
    data = tmp_path / "data"
    data.mkdir()
    with accounts(data) as books:
        key_id, token = books.key(balance=100)
        headers = {"x-api-key": token}
        with (
            ServerProcess(program(data), metering=True, price=1, max_rows=2) as server,
            callers(2) as send,
        ):
            server.wait_ready()
            queued = server.client.post(V2, json=body(**SLOW), headers=headers).json()["request_id"]
            waiting = send(server.client.post, V1, json=body(**SLOW), headers=headers)
            eventually(lambda: server.gauge("inpaint_running", token) == 2)
            with full_disk(server.pid):
                answer = waiting.result()
                assert answer.status_code == 503, answer.text
                assert int(answer.headers["retry-after"]) >= 1
                refused = server.client.post(V1, json=body(), headers=headers)
                assert (refused.status_code, "disk is full" in refused.json()["error"]) == (503, True)
                assert server.client.get("/readyz").status_code == 503
                assert server.client.get("/livez").status_code == 200
            eventually(server.ready)
            state = f"/v2/requests/{queued}/status"
            eventually(lambda: server.client.get(state, headers=headers).json()["status"] == "COMPLETED")
            eventually(lambda: unfinished(books.database) == [])
            assert books.ledger.check() == []
            spent = 100 - books.ledger.balance(key_id) / 1e6
            assert spent == pytest.approx(COST), "the queued picture's price, and no other"
            assert server.client.post(V1, json=body(), headers=headers).status_code == 200


def unfinished(database: Database) -> list[str]:
    with database.read() as connection:
        open_states = requests.c.state.in_(["QUEUED", "PROCESSING"])
        return list(connection.scalars(select(requests.c.id).where(open_states)))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(f"sqlite:///{tmp_path / 'inpaint.db'}") as database:
        database.migrate()
        yield database


@pytest.mark.parametrize("pragma", ["query_only = ON", "max_page_count = 1"])
def test_a_database_that_cannot_be_written_is_away(database: Database, pragma: str) -> None:
    """Full and read-only are states of the disk, which end; they are no bug of ours and lose nothing."""
    with database.read() as connection:
        connection.exec_driver_sql(f"PRAGMA {pragma}")
    with pytest.raises(BusyError, match="disk is full or cannot be written"), database.write() as connection:
        connection.execute(text("CREATE TABLE big AS SELECT zeroblob(1000000) AS data"))
    assert not database.writable
    with database.read() as connection:
        connection.exec_driver_sql(f"PRAGMA {pragma.replace('ON', 'OFF').replace('= 1', '= 1000000')}")
    database.check_writable()
    assert database.writable


def test_a_database_whose_folder_is_gone_is_away(tmp_path: Path) -> None:
    """An unmounted disk comes back."""
    away = Database(f"sqlite:///{tmp_path / 'gone' / 'inpaint.db'}")
    with away, pytest.raises(BusyError), away.read():
        pass


DAMAGED = {
    "garbage": lambda path: path.write_bytes(os.urandom(8192)),
    "a page of zeros": lambda path: path.write_bytes(path.read_bytes()[:4096] + bytes(4096 * 20)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_database_is_one_sentence_that_says_what_to_do(damage: str, tmp_path: Path) -> None:
    """An operator at night needs the name of the file and the remedy, not SQLAlchemy's link."""
    path = tmp_path / "inpaint.db"
    with Database(f"sqlite:///{path}") as database:
        database.migrate()
    for extra in tmp_path.glob("inpaint.db-*"):
        extra.unlink()
    DAMAGED[damage](path)
    with Database(f"sqlite:///{path}") as database, pytest.raises(OutputError) as refused:
        database.migrate()
    assert str(path) in str(refused.value)
    assert "move it away" in str(refused.value)


def test_a_second_server_on_one_sqlite_file_is_refused(tmp_path: Path) -> None:
    """It would take over what the first is painting: pictures delivered and refunded."""
    shared = f"sqlite:///{tmp_path / 'shared.db'}"
    one, other = (Settings(data=tmp_path / name, database_url=shared) for name in ("one", "other"))
    prepare(one)
    prepare(other)
    says = r"INPAINT_DATABASE_URL: another server uses .*shared\.db"
    with _alone(one), pytest.raises(RequestError, match=says), _alone(other):
        pass
    with _alone(other):
        pass


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_machines_other_users_read_nothing(tmp_path: Path) -> None:
    """The database holds prompts, and tokens that open pictures; also in a folder that was there before."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "pictures").mkdir(mode=0o755)
    with ServerProcess(program(data)) as server:
        server.wait_ready()
        assert server.client.post(V2, json=body()).status_code == 200
        own = [path for path in data.rglob("*") if path.name != "calls"]  # that is the stub engine's
        assert {path.name for path in own} >= {"inpaint.db", "pictures", "server.lock", "image.png"}
        assert [path for path in own if mode_of(path) & 0o077] == []


def test_a_folder_of_other_things_is_not_closed(tmp_path: Path) -> None:
    """``--data ~`` must not lock anybody out of what was there before."""
    tmp_path.chmod(0o755)
    (tmp_path / "letters.txt").write_text("mine")
    (tmp_path / "letters.txt").chmod(0o644)
    prepare(Settings(data=tmp_path))
    close_to_others(tmp_path)
    assert mode_of(tmp_path) == 0o755
    assert mode_of(tmp_path / "letters.txt") == 0o644
    assert mode_of(tmp_path / "inpaint.db") == 0o600
    (tmp_path / "letters.txt").unlink()
    close_to_others(tmp_path)
    assert mode_of(tmp_path) == 0o700
