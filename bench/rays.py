"""Ray and an S3-compatible store, started in the hosts of ``bench.hosts``."""

import sys
import time
import urllib.request
from pathlib import Path

import boto3

from bench.hosts import Host

BIN = Path(sys.executable).parent
S3 = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
_RAY = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "server.ray.proxy:middlewares",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # Ray takes a host for dead after 3 s of silence and not after half a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}
_NODE = [
    "--num-cpus=2",
    "--num-gpus=1",
    "--object-store-memory=150000000",
    "--disable-usage-stats",
    "--block",
]


def start_head(head: Host, folder: Path) -> None:
    """Ray's head."""
    head.env = {**head.env, **_RAY}
    command = [str(BIN / "ray"), "start", "--head", f"--node-ip-address={head.address}", "--port=6379"]
    head.start([*command, "--include-dashboard=false", *_NODE], folder / "ray-head.log")
    time.sleep(15)


def start_worker(host: Host, head: Host, folder: Path) -> None:
    """Another host of its cluster."""
    host.env = {**host.env, **_RAY}
    command = [str(BIN / "ray"), "start", f"--address={head.address}:6379"]
    host.start([*command, f"--node-ip-address={host.address}", *_NODE], folder / f"ray-{host.name}.log")


def start_store(head: Host, folder: Path) -> None:
    """An S3-compatible store with the bucket ``pictures``."""
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
