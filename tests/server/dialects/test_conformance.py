"""The OpenAPI description against a real server on loopback, with schemathesis.

Every request is generated from the description: some valid, some invalid. Half of those that might be painted
get real pictures, and half of the ids are of existing requests, so that successes are compared too. Nothing
differs from run to run.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext, Response
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi import checks
from starlette.routing import BaseRoute, Route

from inpaint.errors import PaintError
from server.app import create_app
from server.settings import Settings
from tests.support.dialects import MASK, PHOTO, way_of
from tests.support.served import (
    FakeEngine,
    PictureHost,
    Served,
    b64,
    body,
    eventually,
    server_for,
)

pytest_plugins = ["tests.support.served_fixtures"]

EXAMPLES = 30  # per operation, in addition to those for the edges of each value
PROBES = {"/livez", "/readyz"}
PAGE = {"/", "/web/{path:path}"}  # files that need no key and are not part of the API
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    checks.unsupported_method,
    checks.ignored_auth,
]
APP = create_app(Settings(data=Path("unused")), FakeEngine())  # never started, only described
API = schemathesis.openapi.from_dict(
    APP.openapi(),
    config=SchemathesisConfig.from_dict(
        {
            "seed": 4,
            "generation": {"max-examples": EXAMPLES, "deterministic": True, "database": "none"},
            "operations": [
                # Lists that no request changes.
                {
                    "include-path-regex": "^/sdapi/",
                    "include-method": "GET",
                    "generation": {"max-examples": 3},
                },
                # Their fields' edges are tried at /v1/images/generations and /sdapi/v1/img2img.
                *(
                    {"include-path": path, "phases": {"coverage": {"enabled": False}}}
                    for path in ("/v1/images/edits", "/sdapi/v1/txt2img")
                ),
            ],
        }
    ),
)


def routes(found: Iterable[BaseRoute]) -> Iterator[tuple[str, str]]:
    """Yield method and path of every route, including those of included routers."""
    for route in found:
        if isinstance(route, Route):
            yield from ((method, route.path) for method in sorted((route.methods or set()) - {"HEAD"}))
        else:  # FastAPI's wrapper; other kinds, such as a mount, must be handled here
            yield from routes(route.original_router.routes)  # type: ignore[attr-defined]


# Where the default is a megapixel, which takes long and shows no more.
SMALL = {"/v1/images/generations": {"size": "96x64"}, "/sdapi/v1/txt2img": {"width": 96, "height": 64}}
ROUTES = sorted(routes(APP.routes))


@API.hook
def flatmap_body(context: HookContext, made: Any) -> "st.SearchStrategy[Any]":
    """Give half of the bodies pictures that can be painted; as generated, they are noise."""
    if not isinstance(made, dict):
        return st.just(made)
    pictures = {"image": b64(PHOTO), "init_images": [b64(PHOTO)], "mask": b64(MASK), "prompt": "a red circle"}
    return st.sampled_from([made | pictures, made])


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve with keys."""
    with server_for(tmp_path_factory.mktemp("keyed"), picture_host) as served:
        served.key()
        yield served


@pytest.fixture(scope="module")
def token(keyed: Served) -> str:
    """Return a key with every scope."""
    return keyed.key(scopes=("sdxl-inpaint", "metrics"))


@pytest.fixture(scope="module")
def ids(keyed: Served, token: str) -> list[str]:
    """Return the ids of this key's requests that were painted, failed and cancelled."""
    engine = keyed.engine
    assert isinstance(engine, FakeEngine)
    with keyed.calling(key=token) as client:

        def submit() -> str:
            return str(client.post("/v2/sdxl-inpaint", json=body(pace="near")).json()["request_id"])

        def ends(request_id: str) -> bool:
            found = client.get(f"/v2/requests/{request_id}/status").json()["status"]
            return found in ("COMPLETED", "FAILED")

        made = [submit()]
        eventually(lambda: ends(made[0]))
        engine.failures.append(PaintError("the model painted no picture"))
        made.append(submit())
        eventually(lambda: ends(made[1]))
        engine.held = True
        made.append(submit())
        client.delete(f"/v2/requests/{made[2]}")
        engine.held = False
        return made


@pytest.mark.slow
@API.parametrize()
def test_the_description_is_what_happens(case: Case, keyed: Served, token: str, ids: list[str]) -> None:
    """A generated client meets no status, content type, header or body that is not described."""
    wanted = (case.path_parameters or {}).get("request_id")
    if isinstance(wanted, str) and len(wanted) == 32 and wanted[0] in "01234567":
        case.path_parameters["request_id"] = ids[int(wanted[0], 16) % len(ids)]
        if case.path_parameters.get("number") in range(1, 100):
            case.path_parameters["number"] = 0
    if isinstance(case.body, dict):
        case.body = SMALL.get(case.path, {}) | case.body
    answer = case.call(base_url=keyed.url, headers={"x-api-key": token})
    _is_no_bug(answer)
    case.validate_response(answer, checks=CHECKS, headers={"x-api-key": token})


def _is_no_bug(answer: Response) -> None:
    assert answer.status_code < 500 or (answer.status_code == 503 and "retry-after" in answer.headers)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_requires_a_key(method: str, path: str, keyed: Served, ids: list[str]) -> None:
    """Every route, including those added tomorrow, requires a key before it does anything."""
    known = {"{request_id}": ids[0], "{number}": "0", "{path:path}": "index.html"}
    url = path
    for name, value in known.items():
        url = url.replace(name, value)
    wrong = [{}, {"x-api-key": "inp_0_0"}, {"authorization": "Basic aW5wOmlucA=="}, {"cookie": "key=1"}]
    for headers in wrong:
        answer = httpx2.request(method, keyed.url + url, headers=headers, json=body(), trust_env=False)
        assert answer.status_code == (200 if path in PROBES | PAGE else 401)
        assert path in PROBES | PAGE or way_of(path).said(answer.json())


def test_a_key_for_one_thing_opens_no_other(keyed: Served) -> None:
    """An operator can give the monitoring a key of its own."""
    with keyed.calling(key=keyed.key(scopes=("metrics",))) as client:
        assert client.get("/metrics").status_code == 200
        for version in ("v1", "v2"):
            assert client.post(f"/{version}/sdxl-inpaint", json=body()).status_code == 403
    with keyed.calling(key=keyed.key()) as client:
        assert client.get("/metrics").status_code == 403


def test_every_route_is_described(keyed: Served, token: str) -> None:
    """Every route can be found in the description, and schemathesis misses none."""
    paths = APP.openapi()["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert set(ROUTES) == described | {("GET", "/openapi.json"), *(("GET", path) for path in PAGE)}
    with keyed.calling(key=token) as client:
        assert client.get("/openapi.json").json()["paths"] == paths
