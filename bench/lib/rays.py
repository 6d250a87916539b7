"""Ray and an S3-compatible store, started in the hosts of ``bench.lib.hosts``."""

import secrets
import shlex
import sys
import time
import urllib.request
from pathlib import Path

import boto3

from bench.lib.hosts import Host

BIN = Path(sys.executable).parent
S3 = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
_RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "server.ray.proxy:middlewares",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray takes a host for dead after about 10 s without an answer, not after a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_failure_threshold": "3",
}
_START_S = 15.0  # one after the other: Ray ends a host that has not joined within 15 s
_NODE = [
    "--num-cpus=2",
    "--num-gpus=1",
    "--object-store-memory=150000000",
    "--disable-usage-stats",
    "--block",
]


def start_head(head: Host, folder: Path) -> None:
    """Start Ray's head."""
    head.env = {**head.env, **_RAY}
    command = [str(BIN / "ray"), "start", "--head", f"--node-ip-address={head.address}", "--port=6379"]
    head.start([*command, "--include-dashboard=false", *_NODE], folder / "ray-head.log")
    time.sleep(_START_S)


def start_worker(host: Host, head: Host, folder: Path) -> None:
    """Start another host of its cluster, again whenever it ends, as a service manager would."""
    host.env = {**host.env, **_RAY}
    command = [str(BIN / "ray"), "start", f"--address={head.address}:6379"]
    once = shlex.join([*command, f"--node-ip-address={host.address}", *_NODE])
    host.start(["sh", "-c", f"while true; do {once}; sleep 1; done"], folder / f"ray-{host.name}.log")
    time.sleep(_START_S)


def start_store(head: Host, folder: Path) -> None:
    """Start an S3-compatible store and make the bucket ``pictures``."""
    head.start([str(BIN / "moto_server"), "-H", head.address, "-p", "5000"], folder / "store.log")
    endpoint = f"http://{head.address}:5000"
    for _ in range(200):
        try:
            urllib.request.urlopen(endpoint, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            break
    names = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **names).create_bucket(Bucket="pictures")
