"""Time and memory that the server spends on a bad input: ``python -m bench.rejections``.

Milliseconds from a request's last byte to its answer, and megabytes that the server's peak grew by, for the
pictures and bodies of ``tests/server/http/test_attacks.py`` as image and as mask, and for the largest
pictures that must be decoded before they can be refused. Targets: 200 ms and 100 MB; 100 ms for the bombs.
"""

import argparse
import http.client
import io
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from PIL import Image

from bench.lib.instant import conditions
from bench.soak import process
from tests.inpaint.images.test_bombs import DECODE_BOMBS
from tests.server.http.test_attacks import BAD_PICTURES, BOMBS, V1
from tests.support.served import MASK, PHOTO

TARGET_MS, TARGET_MB = 200.0, 100.0
BOUNDARY = "rejections"


def form(**files: bytes) -> tuple[str, bytes]:
    """Return the content type and body of a multipart form of two pictures."""
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="f"\r\n\r\n'.encode()
        + data
        + b"\r\n"
        for name, data in ({"image": PHOTO, "mask": MASK, "prompt": b"x"} | files).items()
    ]
    return f"multipart/form-data; boundary={BOUNDARY}", b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def large() -> dict[str, dict[str, bytes]]:
    """Return the largest accepted pictures, each with a fault that only decoding their pixels shows."""
    side = 5000
    photo = _file(Image.effect_noise((side, side), 60).convert("RGB"), "JPEG")
    black, white = (_file(Image.new("L", (side, side), grey), "PNG") for grey in (0, 255))
    return {
        "25 megapixels, black mask": {"image": photo, "mask": black},
        "25 megapixels, mask of another size": {"image": photo},
        "25 megapixels, cut to 60 %": {"image": photo[: len(photo) * 6 // 10], "mask": white},
    }


def _file(image: Image.Image, kind: str) -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def inputs() -> Iterator[tuple[str, tuple[str, bytes]]]:
    """Yield the name of each input with its content type and body."""
    for name, make in DECODE_BOMBS.items():
        yield f"{name} (image)", form(image=make())
    for name, data in BAD_PICTURES.items():
        yield f"{name} (image)", form(image=data)
        yield f"{name} (mask)", form(mask=data)
    for name, body in BOMBS.items():
        yield f"{name} (body)", body
    for name, files in large().items():
        yield name, form(**files)


def one(port: int, pid: int, kind: str, body: bytes) -> dict[str, float]:
    """Time one request from its last byte on: the rest is sent, and read by the server, before."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("POST", V1)
    connection.putheader("Content-Type", kind)
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body[:-1])
    time.sleep(0.05 + len(body) / 200e6)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
    before = memory_mb(pid, "VmRSS")
    started = time.perf_counter()
    connection.send(body[-1:])
    status = connection.getresponse().status
    ms = 1000 * (time.perf_counter() - started)
    connection.close()
    if status == 200 or status >= 500:
        raise SystemExit(f"a bad input was answered with {status}; a 4xx status is expected")
    return {"ms": round(ms, 1), "mb": round(memory_mb(pid, "VmHWM") - before, 1)}


def memory_mb(pid: int, name: str) -> float:
    """Return one entry of a process's /proc/PID/status, in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure() -> dict[str, dict[str, float]]:
    """Try each input twice: the shorter time, because the first try may load code, and the larger growth."""
    found = {}
    with tempfile.TemporaryDirectory() as data, process("bench.soak", "--serve", data) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        for name, (kind, body) in inputs():
            tries = [one(port, child.pid, kind, body) for _ in range(2)]
            found[name] = {"ms": min(t["ms"] for t in tries), "mb": max(t["mb"] for t in tries)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the JSON to this file, too")
    chosen = parser.parse_args(arguments)
    found = measure()
    slowest = dict(sorted(found.items(), key=lambda item: -item[1]["ms"])[:10])
    largest = dict(sorted(found.items(), key=lambda item: -item[1]["mb"])[:10])
    figures: dict[str, Any] = {
        "bench": "rejections",
        "date": datetime.now(UTC).date().isoformat(),
        **conditions(),
        "targets": {"ms": TARGET_MS, "mb": TARGET_MB},
        "inputs": len(found),
        "over_target": [n for n, f in found.items() if f["ms"] > TARGET_MS or f["mb"] > TARGET_MB],
        "slowest": slowest,
        "largest": largest,
    }
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
