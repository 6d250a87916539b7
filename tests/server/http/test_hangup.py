"""A v1 client that closes its connection, seen from outside a real server with a real engine."""

import json
import socket
from pathlib import Path

import pytest

from tests.support.server_process import ServerProcess, body, cli, eventually

STEPS, CALLS = 100, 180  # of DPM2 Karras at strength 0.9: two UNet calls a step


@pytest.mark.slow
@pytest.mark.gate
def test_a_closed_socket_stops_the_painting_and_the_next_one_is_painted(tmp_path: Path) -> None:
    """Four samples of 100 steps whose client has left must not delay other clients."""
    long = json.dumps(body(samples=4, scheduler="DPM2 Karras", num_inference_steps=STEPS)).encode()
    head = f"POST /v1/sdxl-inpaint HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(long)}\r\n"
    with ServerProcess(cli(tmp_path, "--device", "cpu")) as server:
        server.wait_ready()
        with socket.create_connection(("127.0.0.1", server.port)) as caller:
            caller.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + long)
            eventually(lambda: server.gauge("inpaint_unet_calls_total") >= 3)
            calls = server.gauge("inpaint_unet_calls_total")
            assert calls < CALLS / 3, "it must be far from done when its client leaves"
        eventually(lambda: server.gauge("inpaint_running") == 0)
        assert server.client.post("/v1/sdxl-inpaint", json=body(), timeout=60).status_code == 200
        own = 18  # 20 steps of DDIM at strength 0.9
        assert server.gauge("inpaint_unet_calls_total") - own < CALLS / 2
