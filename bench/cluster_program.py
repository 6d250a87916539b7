"""A Ray cluster on this machine with the application on it, as a program that takes orders as JSON lines.

Its argument has the application's ``settings``, ``loads`` (the function that makes an engine), ``router``
(the class that chooses one) and ``address`` (of a running cluster, or null). Each line on stdin names a
method in ``do``; the answer is a line on stdout.
"""

import json
import os
import sys
from typing import Any

from server.ray.environment import prepare_environment

prepare_environment()

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from server.ray.ingress import NAME, application, settings_of
from server.ray.start import start_ray


class Program:
    def __init__(self, *, settings: dict[str, Any], loads: str, router: str, address: str | None) -> None:
        self._loads, self._router, self._settings = loads, router, settings
        options = {"address": address} if address else {"address": "local", "num_cpus": 4}
        start_ray(**options, log_to_driver=False)
        http = HTTPOptions(host=settings.get("host", "127.0.0.1"), port=settings["port"])
        serve.start(proxy_location="EveryNode", http_options=http)

    def deploy(self, router: str | None = None, loads: str | None = None, **changes: Any) -> None:
        """Deploy the application, or deploy it anew with changes."""
        self._settings |= changes
        self._router, self._loads = router or self._router, loads or self._loads
        serve.run(
            application(settings_of(self._settings), loads=self._loads, router=self._router),
            name=NAME,
            route_prefix="/",
        )

    def actors(self) -> dict[str, list[list[Any]]]:
        """Return deployment → the name, process and node of each living replica."""
        found: dict[str, list[list[Any]]] = {"Engine": [], "Ingress": []}
        for actor in ray._private.state.actors().values():
            for deployment, replicas in found.items():
                ours = actor["Name"].startswith(f"SERVE_REPLICA::{NAME}#{deployment}#")
                if ours and actor["State"] == "ALIVE":
                    replicas.append([actor["Name"], actor["Pid"], actor["Address"]["NodeID"]])
        return found

    def stop(self) -> None:
        serve.shutdown()
        ray.shutdown()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints to stdout, too
    program = Program(**json.loads(sys.argv[1]))
    print(json.dumps("ready"), file=answers)
    for line in sys.stdin:
        order = json.loads(line)
        done = getattr(program, order.pop("do"))(**order)
        print(json.dumps(done), file=answers)


if __name__ == "__main__":
    main()
