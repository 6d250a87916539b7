"""The picture store in S3: a real driver against an S3 server on this machine, also unreachable and slow."""

import socket
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.config import conf, set_conf_env
from fsspec.registry import _registry

from inpaint.errors import BusyError, OutputError, RequestError
from server.errors import NotFoundError
from server.service.sweeper import sweep
from server.storage.blobs import Blobs
from tests.server.dialects.test_segmind_v2 import V1, V2, ended, status_of, submitted
from tests.support.fleet import PRICED
from tests.support.served import FakeEngine, Serve, Served, body, colour_of, eventually, opened
from tests.support.server_process import ServerProcess, accounts, program
from tests.support.server_process import body as small_body

pytest.importorskip("s3fs", reason="the s3 extra is not installed")
moto_server = pytest.importorskip("moto.server", reason="moto[server] is not installed")

pytest_plugins = ["tests.support.served_fixtures"]
pytestmark = [
    # From moto's web server and boto's client in the versions that we pin; we cannot fix them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

URL = "s3://bucket/folder"
UNREACHABLE = "The server's picture store does not answer; try again."


class Store:
    """An S3 server that can be switched off and keeps its objects."""

    def __init__(self) -> None:
        self.port = 0
        self.start()

    def start(self) -> None:
        self._server = moto_server.ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self) -> None:
        self._server.stop()

    def names(self) -> list[str]:
        """Return the names of its objects."""
        return sorted(str(name).removeprefix("bucket/") for name in self.files.find("bucket"))

    @cached_property
    def files(self) -> Any:
        """A client of its own for the tests."""
        return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


@pytest.fixture(scope="module")
def only_store() -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        # As an operator sets them: none of these is a setting of ours.
        patch.setenv("AWS_ACCESS_KEY_ID", "testing")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = Store()
        patch.setenv("FSSPEC_S3_ENDPOINT_URL", f"http://127.0.0.1:{store.port}")
        patch.setitem(conf, "s3", {})
        set_conf_env(conf)  # as fsspec does when it is imported
        assert conf["s3"] == {"endpoint_url": f"http://127.0.0.1:{store.port}"}
        yield store
        store.stop()


@pytest.fixture
def store(only_store: Store) -> Store:
    """Return the running server with an empty bucket."""
    if only_store.files.exists("bucket"):
        only_store.files.rm("bucket", recursive=True)
    only_store.files.mkdir("bucket")
    return only_store


@pytest.fixture
def switch_off(store: Store) -> Iterator[Callable[[], None]]:
    """Return a function that switches the server off; it is switched on again after the test."""
    off: list[bool] = []

    def stop() -> None:
        store.stop()
        off.append(True)

    yield stop
    if off:
        store.start()


@pytest.fixture
def blobs(store: Store) -> Blobs:
    return Blobs(URL)


# The store alone.


def test_a_picture_comes_back_as_it_was(blobs: Blobs, store: Store) -> None:
    """The bytes are the same, a second put replaces the first, and the URL names the folder."""
    blobs.put("r1", "0.png", b"old")
    blobs.put("r1", "0.png", b"\0\xff" * 1000)
    assert blobs.get("r1", "0.png") == b"\0\xff" * 1000
    assert store.names() == ["folder/r1/0.png"]


def test_a_request_is_deleted_with_all_its_files(blobs: Blobs, store: Store) -> None:
    """The sweeper leaves no file of an expired request, touches no other, and may delete twice."""
    for request_id in ("r1", "r10"):
        for name in ("image.png", "0.png"):
            blobs.put(request_id, name, b"p")
    blobs.delete("r1")
    blobs.delete("r1")
    assert store.names() == ["folder/r10/0.png", "folder/r10/image.png"]
    with pytest.raises(NotFoundError, match="there is no such picture"):
        blobs.get("r1", "0.png")


@pytest.mark.parametrize(
    ("request_id", "name"),
    [("..", "secret"), ("r1", "../../secret"), ("r1/..", "secret"), ("r1", ""), ("r1", "a\0b"), ("r1", "?x")],
)
def test_nothing_outside_the_folder_can_be_read(
    blobs: Blobs, store: Store, request_id: str, name: str
) -> None:
    """Any names in a URL that lead out of the folder are answered with 404."""
    Blobs("s3://bucket/other").put("secret", "secret", b"s")
    with pytest.raises(NotFoundError):
        blobs.get(request_id, name)


def every_call(blobs: Blobs) -> list[tuple[str, Callable[[], object]]]:
    """Return a call of each method, with the verb of its error message."""
    return [
        ("take", lambda: blobs.put("r1", "0.png", b"p")),
        ("give", lambda: blobs.get("r1", "0.png")),
        ("delete", lambda: blobs.delete("r1")),
    ]


def test_a_store_that_is_unreachable_is_one_sentence(blobs: Blobs, switch_off: Callable[[], None]) -> None:
    """The caller is asked to try again: never "there is no such picture", no traceback, and within 10 s."""
    blobs.put("r1", "0.png", b"p")
    switch_off()
    for _, call in every_call(blobs):
        began = time.monotonic()
        with pytest.raises(BusyError) as caught:
            call()
        assert str(caught.value) == UNREACHABLE
        assert time.monotonic() - began < 20


@pytest.mark.slow
def test_a_store_that_hangs_is_unreachable(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a thread no longer than the operator allows, even where its driver would wait forever."""
    monkeypatch.setattr("server.storage.blobs._DEADLINE_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        hanging = {"endpoint_url": f"http://127.0.0.1:{port}", "config_kwargs": {"read_timeout": 0.2}}
        monkeypatch.setitem(conf, "s3", hanging)
        for _, call in every_call(Blobs(URL)):
            began = time.monotonic()
            with pytest.raises(BusyError, match="does not answer"):
                call()
            assert time.monotonic() - began < 20


def test_a_store_that_refuses_is_one_sentence_with_its_reason(store: Store) -> None:
    """A missing bucket is the operator's to fix, and trying again does not help."""
    blobs = Blobs("s3://another-bucket/folder")
    with pytest.raises(OutputError, match="does not take files: The specified bucket does not exist"):
        blobs.put("r1", "0.png", b"p")


def test_a_store_that_is_overloaded_is_busy(blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """S3 answers 503 SlowDown and 500 InternalError now and then, and a caller should try again."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    for code, kind in (("SlowDown", BusyError), ("InternalError", BusyError), ("AccessDenied", OutputError)):

        def fail(*_: Any, code: str = code, **__: Any) -> None:
            raise translate_boto_error(ClientError({"Error": {"Code": code, "Message": "m"}}, "o"))

        for name in ("pipe_file", "cat_file", "rm"):
            monkeypatch.setattr(blobs._fs, name, fail)
        for verb, call in every_call(blobs):
            with pytest.raises(kind, match="try again" if kind is BusyError else f"does not {verb} files: m"):
                call()


def test_without_the_driver_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message holds a command that an operator can copy and run."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(RequestError, match=r"run: pip install 'sdxl-inpaint\[s3\]'"):
        Blobs(URL)


# A server with the store.


def near(found: Any, wanted: tuple[int, int, int]) -> bool:
    """Return whether two colours are the same but for the losses of JPEG."""
    return max(abs(a - b) for a, b in zip(found, wanted, strict=True)) < 12


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def test_a_request_lives_in_s3_and_is_swept_there(serve: Serve, store: Store) -> None:
    """All files of a request are in S3 when it is painted and served, and gone after it expired."""
    served = serve(blobs_url=URL, requests_ttl_s=0.001, pictures_ttl_s=0.001)
    request_id = submitted(served.client)
    answer = ended(served.client, request_id).json()
    assert answer["status"] == "COMPLETED"
    picture = served.client.get(answer["output"])
    assert near(opened(picture.content).getpixel((40, 16)), colour_of(7))
    names = ["0.jpeg", "image.png", "mask.png"]
    assert store.names() == [f"folder/{request_id}/{name}" for name in names]
    assert sweep(served.parts, audits=True)
    assert store.names() == []
    assert served.client.get(answer["output"]).status_code == 404


@pytest.mark.slow
def test_nothing_is_charged_while_the_store_is_unreachable(
    serve: Serve, store: Store, switch_off: Callable[[], None]
) -> None:
    """New requests and stored pictures are answered 503; v1 without an Idempotency-Key still works."""
    served = serve(blobs_url=URL, **PRICED)
    token = served.key(balance=1.0)
    with served.calling(key=token) as client:
        request_id = submitted(client)
        assert ended(client, request_id).json()["status"] == "COMPLETED"
        before = client.get("/v1/get-user-credits").json()
        switch_off()
        for answer in (
            client.post(V2, json=body()),
            client.get(f"/v2/requests/{request_id}/images/0"),
            client.post(V1, json=body(), headers={"idempotency-key": "k"}),
        ):
            assert (answer.status_code, answer.json()) == (503, {"error": UNREACHABLE})
            assert answer.headers["retry-after"] == "5"
        assert client.get("/v1/get-user-credits").json() == before
        assert ended(client, request_id).status_code == 200
        assert client.post(V1, json=body()).status_code == 200
        store.start()
        assert client.get(f"/v2/requests/{request_id}/images/0").status_code == 200
        assert client.post(V1, json=body(), headers={"idempotency-key": "k"}).status_code == 200
        store.stop()


@pytest.mark.slow
def test_a_picture_that_is_painted_while_the_store_is_unreachable_is_kept_when_it_is_back(
    serve: Serve, store: Store, switch_off: Callable[[], None]
) -> None:
    """The GPU's work is not lost, and a short outage does not fail the request."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, blobs_url=URL, **PRICED)
    with served.calling(key=served.key(balance=1.0)) as client:
        ids = [submitted(client), submitted(client)]
        tickets = [engine.next(), engine.next()]
        switch_off()
        for ticket in tickets:
            served.do(engine.paint, ticket)
        cancelled = client.delete(f"/v2/requests/{ids[1]}")  # need not wait for the store
        assert cancelled.json()["error"] == "cancelled by the caller"
        assert status_of(client, ids[0]) == "PROCESSING"
        store.start()
        assert ended(client, ids[0]).json()["status"] == "COMPLETED"
        assert client.get(f"/v2/requests/{ids[0]}/images/0").status_code == 200
        store.stop()


def test_a_short_outage_while_a_picture_is_written_fails_no_request(serve: Serve) -> None:
    """The store may become unreachable between reading the inputs and writing the picture."""
    served = serve(**PRICED)
    put, tries = served.parts.blobs.put, Counter[str]()

    def now_and_then(request_id: str, name: str, data: bytes) -> None:
        tries[name] += 1
        if name == "0.jpeg" and tries[name] < 3:
            raise BusyError(UNREACHABLE)
        put(request_id, name, data)

    served.parts.blobs.put = now_and_then  # type: ignore[method-assign]
    with served.calling(key=served.key(balance=1.0)) as client:
        assert ended(client, submitted(client)).json()["status"] == "COMPLETED"
    assert tries["0.jpeg"] == 3


@pytest.mark.slow
def test_a_server_process_finds_its_store_by_environment_variables(store: Store, tmp_path: Path) -> None:
    """An operator sets ``INPAINT_BLOBS_URL`` and the driver's own variables."""
    with ServerProcess(program(tmp_path), blobs_url=URL) as server:
        server.wait_ready()
        request_id = server.client.post(V2, json=small_body()).json()["request_id"]
        path = f"/v2/requests/{request_id}"
        eventually(lambda: server.client.get(f"{path}/status").json()["status"] == "COMPLETED")
        assert opened(server.client.get(f"{path}/images/0").content).size == (48, 32)
    assert f"folder/{request_id}/0.jpeg" in store.names()
    with accounts(tmp_path) as books:
        assert books.ledger.check() == []
