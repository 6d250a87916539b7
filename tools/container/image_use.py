"""Use of an image's root folder as `docker run --read-only` would: the second half of `check_image`."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tools.container.dockerfile import Stage
from tools.container.rootfs import PATH, Root, RootError, inner, tail

READY_S = 300.0
MAY_WRITE = {"/": False, "/opt/venv": False, "/etc": False, "/models": False, "/data": True, "/tmp": True}
PAINT = """
import base64, io, json, sys, urllib.error, urllib.request as u
from PIL import Image

def picture(colour):
    file = io.BytesIO()
    Image.new("RGB", (160, 120), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()

body = {"image": picture("teal"), "mask": picture("white"), "prompt": "a red circle"}
body |= {"scheduler": "DDIM", "num_inference_steps": 20, "strength": 0.5}
headers = {"content-type": "application/json", "x-api-key": sys.argv[1]}
ask = u.Request("http://127.0.0.1:" + sys.argv[2] + "/v1/sdxl-inpaint", json.dumps(body).encode(), headers)
try:
    painted = Image.open(u.urlopen(ask, timeout=280))
except urllib.error.HTTPError as error:
    sys.exit(error.read().decode())
painted.load()
print(painted.format, *painted.size)
"""


@contextmanager
def step(text: str) -> Iterator[list[str]]:
    """Run a step and print one line: its seconds, its text and the caller's additions to the list."""
    started = time.monotonic()
    found: list[str] = []
    try:
        yield found
    except BaseException:
        print(f"FAIL {time.monotonic() - started:6.1f} s  {text}", flush=True)
        raise
    print(f"ok   {time.monotonic() - started:6.1f} s  {': '.join([text, *found])}", flush=True)


def use(work: Path, stage: Stage, folder: Path) -> None:
    """Try the image that ``stage`` made in ``folder``; it writes below ``work``."""
    data, models = work / "data", work / "models"
    shutil.copytree(folder / "data", data)  # a new volume is filled from the image, owner included
    owner = (folder / "data").stat()
    os.chown(data, owner.st_uid, owner.st_gid)
    models.mkdir()
    image = Root(
        folder,
        stage.last("USER").value,
        # One thread, as with `-e OMP_NUM_THREADS=1`: on a busy machine two threads that wait for each other
        # took 2 s for a step of 30 ms, and the server rightly refused requests that would be late.
        {"PATH": PATH, "OMP_NUM_THREADS": "1"} | stage.environment(),
        stage.last("WORKDIR").value,
        binds={data: "/data", models: "/models"},
        read_only=True,
        offline=True,
    )
    command = [*stage.last("ENTRYPOINT").words(), *stage.last("CMD").words()]
    with step(f"user {image.user} has no capability and writes only to /data and /tmp") as found:
        found.append(rights(image, work))
    with step(f"without a key, {shlex.join(command)} refuses to start"):
        refused(image, command, work / "refused.txt")
    with step("inpaint keys create") as found:
        log = work / "key.txt"
        image.run([command[0], "keys", "create", "--name", "check"], log)
        key = log.read_text("utf-8").split()[-1]
        found.append(f"{key[:8]}…")
    serve(image, stage, command, key, work / "server.txt")


def rights(image: Root, work: Path) -> str:
    """Check the user's rights; return its ids.

    Raises:
        RootError: it can write more or less than it should, or has capabilities.
    """
    for path, wanted in MAY_WRITE.items():
        code = image.start(["/bin/sh", "-c", f": > {path}/probe"], work / "log.txt").wait(30)
        if (code == 0) != wanted:
            raise RootError(f"writing to {path} ended with {code}")
    log = work / "rights.txt"
    image.run(["/bin/sh", "-c", "id; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"], log)
    who, *rows = log.read_text("utf-8").splitlines()
    known = who.startswith(f"uid={image.user.partition(':')[0]}(")
    if not known or [int(row.split()[1], 16) for row in rows] != [0, 0, 1]:
        raise RootError(f"it is {who} with {rows}")
    return who


def refused(image: Root, command: list[str], log: Path) -> None:
    """Check that the first start, without a key, is refused.

    Raises:
        RootError: it is not.
    """
    code = image.start(command, log).wait(READY_S)
    if code != 2 or "inpaint keys create" not in log.read_text("utf-8"):
        raise RootError(f"it ended with {code}:\n{tail(log)}")


def serve(image: Root, stage: Stage, command: list[str], key: str, log: Path) -> None:
    """Run the real entrypoint: not ready, ready, a picture, SIGTERM.

    Raises:
        RootError: one of these fails.
    """
    check = stage.last("HEALTHCHECK")
    health = replace(check, value=check.value.removeprefix("CMD").strip()).words()
    server = image.start(command, log)
    try:
        with step("the server, until its health check says ready") as found:
            found.append(until_ready(image, server, health, log))
        with step("a picture over HTTP, with the key") as found:
            code, text = image.run_with(server, ["python", "-c", PAINT, key, stage.last("EXPOSE").value])
            found.append(text.splitlines()[-1])
            if (code, found) != (0, ["JPEG 160 120"]):
                raise RootError(text)
        end = signal.Signals[stage.last("STOPSIGNAL").value]
        with step(f"{end.name}, and it ends with 0"):
            os.kill(inner(server), end)
            if code := server.wait(150):
                raise RootError(f"it ended with {code}:\n{tail(log)}")
    finally:
        server.kill()
        server.wait()


def until_ready(image: Root, server: subprocess.Popen[bytes], health: list[str], log: Path) -> str:
    """Run the health check as Docker does until it passes; return the count of its answers.

    Raises:
        RootError: the server ended or was not ready in time.
    """
    codes: list[int] = []
    deadline = time.monotonic() + READY_S
    while not codes or codes[-1]:
        if server.poll() is not None or time.monotonic() > deadline:
            raise RootError(f"not ready; its health check says {codes[-3:]}:\n{tail(log)}")
        code = image.run_with(server, health)[0]
        codes += [code] if code in (0, 1) else []  # others are nsenter's, from before the chroot
        time.sleep(0.5)
    if codes[0] == 0:
        raise RootError("the health check passed before the model can have been loaded")
    return f"exit 1 {len(codes) - 1} times, then 0"
