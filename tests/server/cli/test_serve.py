"""``inpaint serve`` as its operator meets it: what it says, when it answers, how it ends."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from inpaint.cli import main
from server.http.page import WEB
from server.settings import Settings
from server.start import greeting
from server.storage.requests import Record, Store
from tests.support.server_process import (
    ServerProcess,
    accounts,
    body,
    callers,
    cli,
    eventually,
    opened,
    picture,
    program,
)

SLOW = {"prompt": "slow", "num_inference_steps": 50}  # at least two seconds of the stub worker
BRIEF = pytest.mark.timeout(60)  # what is not refused serves for ever
V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"

Refused = Callable[..., tuple[int, str]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The server's folder, which does not exist yet."""
    return tmp_path / "data"


def record(data: Path, request_id: str) -> Record:
    """A request of an open server as it is written down."""
    with accounts(data) as books:
        return Store(books.database).get(request_id, "")


def running(server: ServerProcess, count: int = 1) -> None:
    """Wait until this many requests are being painted."""
    eventually(lambda: server.gauge("inpaint_running") == count)


# What it says.


@pytest.mark.slow
def test_the_greeting_says_where_what_and_who_and_its_curl_line_works(tmp_path: Path, data: Path) -> None:
    """From nothing to a painted picture by pasting one line; meanwhile probes get the right answer."""
    with ServerProcess(cli(data, "--device", "cpu"), cwd=tmp_path) as server:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
        assert server.client.get("/livez").text == "ok"
        refused = server.client.post(V1, json=body())
        assert (server.ready(), refused.status_code) == (False, 503), "the model is being loaded"
        assert int(refused.headers["retry-after"]) >= 1
        server.wait_ready()
        first, *lines = server.said.splitlines()
        assert (
            first
            == f"{server.url}  model demo; no key is needed, and only programs on this machine are answered"
        )
        assert lines.pop(0) == f"Paint in a browser at {server.url}/ or from a program:"
        (tmp_path / "photo.jpg").write_bytes(picture((160, 120)))
        (tmp_path / "mask.png").write_bytes(picture((160, 120), "white"))
        curl = "\n".join(lines[: lines.index("Ctrl-C stops it.")])
        done = subprocess.run(["sh", "-c", curl], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        painted = opened((tmp_path / "painted.jpg").read_bytes())
        assert (painted.format, painted.size) == ("JPEG", (160, 120))
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0
        assert all(json.loads(line) for line in server.said.splitlines()[5:]), "nothing but its log follows"


def test_the_greeting_names_the_key_and_the_public_url() -> None:
    """The line is for callers on other machines."""
    shown = greeting(Settings(host="0.0.0.0", public_url="https://paint.example/"), 8000, locked=True)
    assert shown.startswith("https://paint.example  model demo; every request needs a key")
    assert 'curl https://paint.example/v1/sdxl-inpaint -o painted.jpg -H "x-api-key: $INPAINT_KEY"' in shown
    assert greeting(Settings(host="::1"), 8000, locked=False).startswith("http://[::1]:8000  ")


@pytest.mark.slow
def test_open_shows_the_page_in_this_machines_browser(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One command from the shell to the page; a browser that is asked too early waits, and gets it."""
    browser = tmp_path / "browser"
    found = tmp_path / "page.html"
    browser.write_text(
        f'#!/bin/sh\necho "$1" > {tmp_path}/url; curl -s "$1" -o {found}.part; mv {found}.part {found}'
    )
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", f"{browser} %s")
    with ServerProcess(cli(data, "--open", "--device", "cpu", "--host", "0.0.0.0", "--no-auth")) as server:
        eventually(found.exists)
        assert (tmp_path / "url").read_text().strip() == f"http://127.0.0.1:{server.port}"
        assert found.read_bytes() == (WEB / "index.html").read_bytes()


@pytest.mark.slow
def test_open_without_a_browser_says_the_url(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without a screen the server serves all the same."""
    monkeypatch.setenv("BROWSER", "/nowhere/browser %s")
    monkeypatch.setenv("PATH", "/nowhere")
    with ServerProcess(cli(data, "--open", "--device", "cpu")) as server:
        eventually(lambda: f"no browser could be started; open {server.url} in one" in server.said)
        assert server.client.get("/livez").status_code == 200


@pytest.mark.slow
def test_other_machines_are_let_in_with_a_key_or_with_no_auth(data: Path) -> None:
    """The two ways to stand on a network."""
    with accounts(data) as books:
        token = books.key()[1]
    with ServerProcess(program(data, host="0.0.0.0")) as server:
        assert "every request needs a key" in (server.url and server.said)
        server.wait_ready()
        assert server.client.post(V1, json=body()).status_code == 401
        assert server.client.post(V1, json=body(), headers={"x-api-key": token}).status_code == 200
    with ServerProcess(program(data.with_name("open"), host="0.0.0.0", no_auth=True)) as server:
        assert "NO KEY IS NEEDED by anyone who can reach it" in (server.url and server.said)
        server.wait_ready()
        assert server.client.post(V1, json=body()).status_code == 200


# What it refuses.


@pytest.fixture
def refused(data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Arguments and variables of ``inpaint serve`` that do not work → exit code and the one line."""

    def run(*arguments: str, folder: Path = data, **variables: str) -> tuple[int, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            main(["serve", "--data", str(folder), *arguments])
        out, line = capsys.readouterr()
        assert out == ""
        assert line.count("\n") == 1, line
        assert line.startswith("error: ")
        assert isinstance(ended.value.code, int)
        return ended.value.code, line.removeprefix("error: ").rstrip()

    return run


def test_a_taken_port_is_one_sentence(data: Path) -> None:
    """The commonest mistake of all, said by the real program before it loads anything."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with ServerProcess(cli(data, "--port", str(port))) as server:
            assert server.exit_code() == 1
    assert server.said == f"error: cannot listen on 127.0.0.1 port {port}: Address already in use\n"


@BRIEF
def test_an_address_that_is_not_ours_is_one_sentence(refused: Refused) -> None:
    """A typing error in --host."""
    code, line = refused("--host", "203.0.113.7", "--no-auth", "--port", "0")
    assert (code, line) == (1, "cannot listen on 203.0.113.7 port 0: Cannot assign requested address")


@BRIEF
@pytest.mark.parametrize("model", ["nosuch", "/nosuch/folder"])
def test_an_unknown_model_is_exit_4_and_one_sentence(refused: Refused, model: str) -> None:
    """No greeting, no log, no process started in vain."""
    code, line = refused("--port", "0", "--model", model)
    assert code == 4
    assert model in line


@pytest.mark.slow
def test_an_engine_that_does_not_start_ends_the_server(data: Path) -> None:
    """Without one there is nothing to serve; the last word says why, in one sentence."""
    with ServerProcess(cli(data, "--device", "cuda:99")) as server:
        assert server.exit_code() == 2
    assert server.said.splitlines()[-1].startswith("error: ")
    assert "cuda" in server.said.splitlines()[-1]


@BRIEF
def test_other_machines_are_kept_out_without_a_key(refused: Refused) -> None:
    """No operator opens a server to a network by accident; the sentence names both ways to do it."""
    code, line = refused("--host", "0.0.0.0", "--port", "0")
    assert code == 2
    assert "inpaint keys create" in line
    assert "--no-auth" in line


@pytest.mark.slow
@BRIEF
def test_a_second_server_on_the_same_folder_is_refused(data: Path, refused: Refused) -> None:
    """It would take over, and paint again, what the first has under way."""
    with ServerProcess(program(data)) as server:
        assert server.url
        code, line = refused("--port", "0")
        assert code == 2
        assert "another server uses" in line


@BRIEF
@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (["--port", "70000"], {}, "--port: "),
        (["--workers", "-1"], {}, "--workers: "),
        (["--log-level", "LOUD"], {}, "--log-level: must be DEBUG"),
        ([], {"INPAINT_WORKERS": "many"}, "INPAINT_WORKERS: "),
        ([], {"INPAINT_RATE": "often"}, "INPAINT_RATE: must be like 600/minute"),
        ([], {"INPAINT_DATABASE_URL": "mysql://here"}, "INPAINT_DATABASE_URL: must be sqlite"),
        ([], {"INPAINT_FETCH_PORTS": "80,443"}, "INPAINT_FETCH_PORTS: must be a JSON list"),
        ([], {"INPAINT_FETCH_DENIED_NETWORKS": '["10.0.0.0/40"]'}, "'10.0.0.0/40' does not"),
    ],
)
def test_a_wrong_setting_is_named(
    refused: Refused, arguments: list[str], variables: dict[str, str], said: str
) -> None:
    """Flag or variable, exit 2 and one sentence, before anything is listened on for long."""
    code, line = refused("--port", "0", *arguments, **variables)
    assert code == 2
    assert said in line


@BRIEF
def test_a_data_folder_that_is_a_file_is_named(refused: Refused, tmp_path: Path) -> None:
    """A typing error in --data."""
    file = tmp_path / "file"
    file.touch()
    code, line = refused("--port", "0", folder=file)
    assert code == 2
    assert line.startswith(f"--data: {file} cannot be used: ")


def test_without_the_extra_the_way_to_install_it_is_said() -> None:
    """`pip install sdxl-inpaint` brings no web server; the rest of the command works without."""
    blocked = "import sys; sys.modules['uvicorn'] = None\nfrom inpaint.cli import main\nmain(['serve'])"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: the HTTP server is not installed; install it with: "
        "pip install 'sdxl-inpaint[server]' (uvicorn is missing)\n"
    )


# How it ends.


@pytest.mark.slow
@pytest.mark.gate
def test_sigterm_finishes_what_runs_and_keeps_what_waits(data: Path) -> None:
    """A restart for an update: no request is lost, and none is painted twice."""
    with ServerProcess(program(data), max_rows=1) as server, callers() as call:
        server.wait_ready()
        under_way = call(server.client.post, V1, json=body(**SLOW))
        running(server)
        # One worker of one row: two are handed over and wait behind it, the third waits for its turn.
        ids = [server.client.post(V2, json=body(prompt=f"v2-{i}")).json()["request_id"] for i in range(3)]
        eventually(lambda: server.gauge("inpaint_waiting") == 2)
        server.signal(signal.SIGTERM)
        eventually(lambda: not server.ready())
        refused = server.client.post(V1, json=body())
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert server.client.get("/livez").status_code == 200
        assert not under_way.done()
        assert opened(under_way.result().content).format == "JPEG"
        assert server.exit_code() == 0
    assert record(data, ids[2]).state == "QUEUED"
    with ServerProcess(program(data), max_rows=1) as server:
        url = f"/v2/requests/{ids[2]}/status"
        eventually(lambda: server.wait_ready().client.get(url).json()["status"] == "COMPLETED")
        assert server.client.get(f"/v2/requests/{ids[2]}").json()["images"]
    calls = (data / "calls").read_text().splitlines()
    assert [(record(data, i).state, record(data, i).attempts) for i in ids] == [("COMPLETED", 1)] * 3
    assert [calls.count(f"v2-{i}") for i in range(3)] == [18] * 3, "each step once"


@pytest.mark.slow
def test_a_drain_that_runs_out_of_time_answers_all_the_same(data: Path) -> None:
    """v1 callers are asked to try again and are not charged; v2 waits for the next start."""
    with accounts(data) as books:
        key_id, token = books.key(1.0)
    with ServerProcess(program(data), drain_s=0.1, metering=True) as server, callers() as call:
        server.client.headers["x-api-key"] = token
        server.wait_ready()
        request_id = server.client.post(V2, json=body(**SLOW)).json()["request_id"]
        under_way = call(server.client.post, V1, json=body(**SLOW))
        eventually(lambda: server.gauge("inpaint_running", token) == 2)
        server.signal(signal.SIGTERM)
        assert under_way.result().status_code == 503
        assert int(under_way.result().headers["retry-after"]) >= 1
        assert server.exit_code() == 0
    with accounts(data) as books:
        kinds = [(entry.kind, entry.request_id == request_id) for entry in books.ledger.entries(key_id)]
        assert sorted(kinds) == [
            ("add", False),
            ("refund", False),
            ("reserve", False),
            ("reserve", True),
        ]
        assert books.ledger.check() == []
        assert Store(books.database).get(request_id, key_id).state == "QUEUED"


@pytest.mark.slow
def test_ctrl_c_drains(data: Path) -> None:
    """To the whole group, as a terminal does: the worker goes on painting until the server lets it go."""
    with ServerProcess(program(data)) as server, callers() as call:
        server.wait_ready()
        under_way = call(server.client.post, V1, json=body(**SLOW))
        running(server)
        server.ctrl_c()
        eventually(lambda: not server.ready())
        assert under_way.result().status_code == 200
        assert server.exit_code() == 0


@pytest.mark.slow
def test_a_second_ctrl_c_does_not_wait(data: Path) -> None:
    """A second signal ends it immediately; requests in progress are refunded or wait, as after a drain."""
    with accounts(data) as books:
        key_id, token = books.key(1.0)
    with ServerProcess(program(data), metering=True) as server, callers() as call:
        server.client.headers["x-api-key"] = token
        server.wait_ready()
        under_way = call(server.client.post, V1, json=body(**SLOW))
        eventually(lambda: server.gauge("inpaint_running", token) == 1)
        server.ctrl_c()
        eventually(lambda: not server.ready())
        server.ctrl_c()
        assert server.exit_code() == 130
        assert under_way.result().status_code == 503
        assert "send it again" in under_way.result().json()["error"]
    with accounts(data) as books:
        assert books.ledger.balance(key_id) == 1_000_000
        assert books.ledger.check() == []


@pytest.mark.slow
def test_sigterm_while_the_model_loads_ends_it_too(data: Path) -> None:
    """An update that is taken back immediately leaves nothing half-started."""
    with ServerProcess(cli(data, "--device", "cpu")) as server:
        assert server.client.get("/livez").status_code == 200
        assert server.workers()
        server.signal(signal.SIGTERM)
        assert server.exit_code() == 0


@pytest.mark.slow
def test_no_worker_outlives_a_killed_server(data: Path) -> None:
    """It would hold the GPU's memory, and its next start would not have it."""
    with ServerProcess(program(data, workers=2)) as server:
        server.wait_ready()
        eventually(lambda: len(server.workers()) == 2)
        server.kill()
        assert server.exit_code() == -signal.SIGKILL
