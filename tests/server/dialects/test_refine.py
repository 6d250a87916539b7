"""``POST /v2/requests/{id}/refine``: a request at the pace near is painted again exactly, and compared."""

import math
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from inpaint.pace import call_plan
from inpaint.request import InpaintResult
from tests.support.served import SIZE, FakeEngine, Serve, Served, body, colour_of, eventually, opened

pytest_plugins = ["tests.support.served_fixtures"]

PRICE = {"metering": True, "price": 1.0}
STEPS, MEGAPIXELS = 22, SIZE[0] * SIZE[1] / 1e6
PRICE_EXACT = STEPS * MEGAPIXELS
PLAN = call_plan("DPM2 Karras", 25, 0.9, "near")
PRICE_NEAR = PRICE_EXACT * PLAN.made / PLAN.calls


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def submitted(client: httpx2.Client, **fields: object) -> str:
    """Submit a near request and return its id."""
    response = client.post("/v2/sdxl-inpaint", json=body(**{"pace": "near", "output_format": "png"} | fields))
    assert response.status_code == 200, response.text
    return str(response.json()["request_id"])


def ended(client: httpx2.Client, request_id: str) -> Any:
    """Wait until a request has ended, and return its answer's body."""
    path = f"/v2/requests/{request_id}"
    eventually(lambda: client.get(f"{path}/status").json()["status"] in ("COMPLETED", "FAILED"))
    return client.get(path).json()


def painted(client: httpx2.Client, **fields: object) -> str:
    """Submit a near request, wait until it is painted, and return its id."""
    request_id = submitted(client, **fields)
    assert ended(client, request_id)["status"] == "COMPLETED"
    return request_id


def refine(
    client: httpx2.Client, request_id: str, headers: dict[str, str] | None = None, **fields: object
) -> Any:
    """Ask for the exact pictures of a request."""
    return client.post(f"/v2/requests/{request_id}/refine", json=fields or None, headers=headers)


def refused(client: httpx2.Client, request_id: str, status: int, **fields: object) -> str:
    """Ask for exact pictures that are refused, and return the error."""
    response = refine(client, request_id, **fields)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    return str(response.json()["error"])


def test_the_same_pictures_are_painted_exactly_as_a_new_request(served: Served) -> None:
    """A client that likes a draft needs neither the pictures nor the settings again to get the exact one."""
    made = {"samples": 3, "soft": True, "loras": [], "guidance_interval": [0.1, 0.9], "extend": [0, 0, 16, 0]}
    draft_id = painted(served.client, prompt="a (red:1.2) circle", quality=80, metadata=True, **made)
    response = refine(served.client, draft_id)
    assert response.status_code == 200
    queued = response.json()
    assert queued["status"] == "QUEUED"
    assert queued["request_id"] != draft_id
    answer = ended(served.client, queued["request_id"])
    assert (answer["refines"], answer["pace"], answer["seeds"]) == (draft_id, "exact", [7, 8, 9])
    draft, exact = engine_of(served).requests
    for name in ("prompt", "seed", "samples", "soft", "guidance_interval", "scheduler", "strength"):
        assert getattr(exact, name) == getattr(draft, name)
    assert (draft.pace, exact.pace) == ("near", "exact")
    assert exact.image.tobytes() == draft.image.tobytes()
    assert exact.mask.tobytes() == draft.mask.tobytes()
    files = [httpx2.get(image["url"], trust_env=False).content for image in answer["images"]]
    assert [opened(data).getpixel((40, 16)) for data in files] == [colour_of(seed) for seed in (7, 8, 9)]
    assert "parameters" in opened(files[0]).info, "the draft's request asked for metadata"
    assert answer["distance_db"] == [None, None, None], "this engine paints both paces alike"
    plain = ended(served.client, draft_id)
    assert not {"refines", "distance_db"} & plain.keys()


def test_one_seed_of_several_is_refined(served: Served) -> None:
    """Of four drafts one is kept; only that one is paid for and painted."""
    draft_id = painted(served.client, samples=4)
    for given in (9, "9"):
        answer = ended(served.client, refine(served.client, draft_id, seed=given).json()["request_id"])
        assert (answer["seeds"], len(answer["images"])) == ([9], 1)
    assert [request.seeds for request in engine_of(served).requests[1:]] == [[9], [9]]
    form = served.client.post(f"/v2/requests/{draft_id}/refine", files={"seed": (None, "10")})
    assert ended(served.client, form.json()["request_id"])["seeds"] == [10]
    for wrong in (6, 11, "x", [9]):
        assert refused(served.client, draft_id, 400, seed=wrong).startswith("seed: must be one of")


def test_the_distance_is_that_of_the_files_inside_the_mask(served: Served) -> None:
    """A client that measures the two files finds the number that the answer states."""
    engine, noise = engine_of(served), np.random.default_rng(3)
    engine.held = True
    draft_id = submitted(served.client, samples=2)
    ticket = engine.next()
    pictures = [noise.integers(40, 200, (SIZE[1], SIZE[0], 3), np.uint8) for _ in range(2)]

    def finish(ticket: Any, changed: list[np.ndarray]) -> None:
        images = [Image.fromarray(pixels) for pixels in changed]
        served.do(ticket.finish, InpaintResult(images, [7, 8], (0, 0, *SIZE)))

    finish(ticket, pictures)
    assert ended(served.client, draft_id)["status"] == "COMPLETED"
    exact_id = refine(served.client, draft_id).json()["request_id"]
    outside, inside = pictures[0].copy(), pictures[1].copy()
    outside[:, : SIZE[0] // 2] += 50  # black in the mask
    inside[4:9, -5:] += 3
    finish(engine.next(), [outside, inside])
    answers = [ended(served.client, request_id) for request_id in (draft_id, exact_id)]
    before, after = (
        np.asarray(opened(httpx2.get(answer["images"][1]["url"], trust_env=False).content), float)
        for answer in answers
    )
    mean = np.square(before - after)[:, SIZE[0] // 2 :].mean()
    assert answers[1]["distance_db"] == [None, pytest.approx(10 * math.log10(255**2 / mean), abs=1e-9)]


def test_a_refined_request_is_paid_and_a_key_repeats_none(serve: Serve) -> None:
    """It costs what the exact request costs; a client that lost the answer asks again."""
    served = serve(**PRICE)
    with served.calling(key=served.key(balance=1)) as client:
        draft_id = painted(client, samples=2)
        spent = 1 - float(client.get("/v1/get-user-credits").json()["credits"])
        assert spent == pytest.approx(2 * PRICE_NEAR, abs=2e-6)
        key = {"Idempotency-Key": "k-refine"}
        ids = {refine(client, draft_id, key, seed=8).json()["request_id"] for _ in range(2)}
        assert len(ids) == 1
        answer = ended(client, ids.pop())
        assert answer["metrics"]["cost"] == pytest.approx(PRICE_EXACT, abs=2e-6)
        assert refine(client, draft_id, key, seed=7).status_code == 422
    assert len(engine_of(served).requests) == 2


def test_only_its_owner_refines_a_request(serve: Serve) -> None:
    """Ids are in URLs; another key must neither get the pictures nor learn that they exist."""
    served = serve()
    with served.calling(key=served.key()) as owner, served.calling(key=served.key()) as other:
        draft_id = painted(owner)
        assert refused(other, draft_id, 404) == refused(other, "0" * 32, 404)
        assert refine(owner, draft_id).status_code == 200


def test_what_cannot_be_refined_is_refused_with_the_reason(served: Served) -> None:
    """Each refusal says what would be right, and nothing is charged or painted."""
    client, engine = served.client, engine_of(served)
    engine.held = True
    draft_id = submitted(client)
    ticket = engine.next()
    assert "not painted yet" in refused(client, draft_id, 400)
    engine.held = False
    served.do(engine.paint, ticket)
    ended(client, draft_id)
    served.parts.blobs.delete(draft_id)
    gone = "the pictures of this request have expired; send it again with pace exact"
    assert refused(client, draft_id, 404) == gone
    assert "exact already" in refused(client, painted(client, pace="exact"), 400)
    noisy = refused(client, painted(client, scheduler="DDPM"), 400)
    assert "DDPM adds noise in each step" in noisy
    short = refused(client, painted(client, scheduler="DDIM", strength=0.3), 400)
    assert "calls of the model are too few" in short
    refined = refine(client, painted(client)).json()["request_id"]
    ended(client, refined)
    assert "exact already" in refused(client, refined, 400)
    engine.failures.append(RuntimeError("lost"))
    failed = submitted(client)
    assert ended(client, failed)["status"] == "FAILED"
    assert "no pictures to refine" in refused(client, failed, 400)


def test_a_refined_request_outlives_its_draft(served: Served) -> None:
    """A draft may be deleted while the exact pictures are painted; only the comparison is missing."""
    engine = engine_of(served)
    draft_id = painted(served.client)
    engine.next()
    engine.held = True
    exact_id = refine(served.client, draft_id).json()["request_id"]
    ticket = engine.next()
    served.parts.blobs.delete(draft_id)
    served.do(engine.paint, ticket)
    answer = ended(served.client, exact_id)
    assert (answer["status"], answer["refines"], len(answer["images"])) == ("COMPLETED", draft_id, 1)
    assert "distance_db" not in answer
