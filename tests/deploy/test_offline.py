"""The whole service with the network cut off: nothing that it does needs anybody else.

Run as a program it is the half inside: in a network namespace where loopback is all there is, it starts
``inpaint serve``, paints, and prints what it saw as one line of JSON.
"""

import base64
import errno
import fcntl
import io
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.support.paths import ROOT
from tests.support.server_process import ServerProcess, body, cli, eventually, picture

pytestmark = pytest.mark.slow

SIZE = (160, 120)
OUTSIDE = ("1.1.1.1", 443)
NAMESPACE = ("unshare", "--net", "--mount", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the half inside saw."""
    assert shutil.which("unshare"), "this needs Linux with util-linux, which makes network namespaces"
    tried = subprocess.run([*NAMESPACE, "true"], capture_output=True, text=True, check=False)
    if tried.returncode and re.search("not permitted|Invalid argument|No space", tried.stderr):
        pytest.skip(f"this machine's kernel forbids network namespaces: {tried.stderr.strip()}")
    assert tried.returncode == 0, f"no network namespace can be made here: {tried.stderr.strip()}"
    data = tmp_path_factory.mktemp("offline") / "data"
    inside = [*NAMESPACE, sys.executable, "-m", "tests.deploy.test_offline", str(data)]
    done = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.gate
def test_the_network_was_really_cut_off(seen: dict[str, Any]) -> None:
    """Else the others would pass on any machine that is online."""
    assert seen["interfaces"] == ["lo"]
    assert seen["outside"] == errno.ENETUNREACH


def test_nothing_tried_to_leave(seen: dict[str, Any]) -> None:
    """Not one connection, datagram or look-up of a name: the kernel counts what has no way out.

    The count before is not 0: the test itself tried to connect and to look up a name, and was counted.
    """
    assert 1 <= seen["tries_for_a_connection"] < seen["tries_before"]
    assert seen["tries_after"] == seen["tries_before"]


@pytest.mark.parametrize("name", ["v1 in JSON", "v1 as a form", "v2 in the end"])
def test_a_picture_is_painted(seen: dict[str, Any], name: str) -> None:
    """Over each way that the API has."""
    assert seen[name] == ["JPEG", *SIZE, "painted"]


def test_the_page_is_there(seen: dict[str, Any]) -> None:
    """With every file that it names."""
    assert seen["page"] == 200
    assert len(seen["page files"]) >= 2
    assert set(seen["page files"].values()) == {200}


def test_it_ends_as_ever(seen: dict[str, Any]) -> None:
    """SIGTERM, and the exit code that supervisors take for well."""
    assert seen["exit code"] == 0


# The half inside.


def inside(data: Path) -> dict[str, Any]:
    """Serve and paint; returns what was seen."""
    loopback_up()
    without_name_servers(data.parent / "resolv.conf")
    found: dict[str, Any] = {"interfaces": [name for _, name in socket.if_nameindex()]}
    with socket.socket() as outside:
        found["outside"] = outside.connect_ex(OUTSIDE)
    found["tries_for_a_connection"] = tries_to_leave()
    with suppress(OSError):
        socket.getaddrinfo("example.org", 443)
    found["tries_before"] = tries_to_leave()
    with ServerProcess(cli(data, "--device", "cpu")) as server:
        server.wait_ready()
        found |= painted(server)
        page = server.client.get("/")
        links = re.findall(r'(?:src|href)="/?(web/[^"]+)"', page.text)
        found["page"] = page.status_code
        found["page files"] = {link: server.client.get(f"/{link}").status_code for link in links}
        server.signal(15)
        found["exit code"] = server.exit_code()
    return found | {"tries_after": tries_to_leave()}


def painted(server: ServerProcess) -> dict[str, list[object]]:
    """One picture over each way, as :func:`described`."""
    photo, mask = picture(SIZE), picture(SIZE, "white")
    fields = body(num_inference_steps=20, strength=0.5) | {"base64": True}
    v1, v2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
    fields |= {name: base64.b64encode(file).decode() for name, file in (("image", photo), ("mask", mask))}
    answer = server.client.post(v1, json=fields).raise_for_status().json()
    found = {"v1 in JSON": described(base64.b64decode(answer["image"]))}
    files = {"image": ("photo.png", photo, "image/png"), "mask": ("mask.png", mask, "image/png")}
    form = {"prompt": "a blue square", "num_inference_steps": "20", "scheduler": "DDIM"}
    found["v1 as a form"] = described(
        server.client.post(v1, files=files, data=form).raise_for_status().content
    )
    queued = server.client.post(v2, json=fields | {"base64": False}).raise_for_status().json()
    done = eventually(lambda: finished(server.client.get(queued["response_url"]).raise_for_status().json()))
    found["v2 in the end"] = described(server.client.get(done["output"]).raise_for_status().content)
    return found


def finished(answer: dict[str, Any]) -> dict[str, Any] | None:
    """The answer, once it is the last."""
    return answer if answer["status"] == "COMPLETED" else None


def described(file: bytes) -> list[object]:
    """Format, size, and whether anything was painted: the picture that was sent had one colour."""
    image = Image.open(io.BytesIO(file))
    image.load()
    colours = image.convert("RGB").getcolors(1 << 24)
    return [image.format, *image.size, "painted" if colours and len(colours) > 100 else "plain"]


def loopback_up() -> None:
    """A new namespace has its loopback switched off."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP


def without_name_servers(file: Path) -> None:
    """Names are asked of an address without a route, in this mount namespace.

    Where this machine asks a resolver on its own loopback, looking up a name would not be seen to leave.
    """
    file.write_text("nameserver 192.0.2.1\n", "utf-8")
    subprocess.run(["mount", "--bind", str(file), "/etc/resolv.conf"], check=True)


def tries_to_leave() -> int:
    """How often something in this namespace wanted to send where no route leads, since it was made."""
    names, values = (
        line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Ip:")
    )
    rows = [line.split() for line in Path("/proc/net/snmp6").read_text().splitlines()]
    six = next((int(row[1]) for row in rows if row[0] == "Ip6OutNoRoutes"), 0)
    return int(values[names.index("OutNoRoutes")]) + six


if __name__ == "__main__":
    print(json.dumps(inside(Path(sys.argv[1]))))  # noqa: T201 - for the half outside
