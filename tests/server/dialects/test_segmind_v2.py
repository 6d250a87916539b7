"""``/v2``: requests are queued, polled, streamed, cancelled, repeated, and survive a restart."""

import io
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image, ImageCms
from sqlalchemy import select

from inpaint.errors import OutOfMemoryError
from server.storage.database import Database
from server.storage.requests import Store
from server.storage.tables import requests
from tests.support.served import (
    MASK,
    PHOTO,
    SIZE,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    b64,
    body,
    colour_of,
    eventually,
    file_of,
    opened,
    photo,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"
Background = Callable[..., "Future[Any]"]


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def submitted(client: httpx2.Client, headers: dict[str, str] | None = None, **fields: object) -> str:
    """Submit a request and return its id."""
    response = client.post(V2, json=body(**fields), headers=headers)
    assert response.status_code == 200, response.text
    return str(response.json()["request_id"])


def ended(client: httpx2.Client, request_id: str) -> Any:
    """Wait until a request has ended, and return its answer."""
    path = f"/v2/requests/{request_id}"
    eventually(lambda: client.get(f"{path}/status").json()["status"] in ("COMPLETED", "FAILED"))
    return client.get(path)


def status_of(client: httpx2.Client, request_id: str) -> str:
    return str(client.get(f"/v2/requests/{request_id}/status").json()["status"])


def events_of(client: httpx2.Client, request_id: str) -> Iterator[tuple[str, Any]]:
    """Yield name and data of a request's server-sent events."""
    with client.stream("GET", f"/v2/requests/{request_id}/events") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        name = ""
        for line in response.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            if key == "data":
                yield name, json.loads(value)


def credits_left(client: httpx2.Client) -> float:
    return float(client.get("/v1/get-user-credits").json()["credits"])


PRICE = {"metering": True, "price": 1.0}
COST = 22 * 48 * 32 / 1e6  # steps × megapixels


# From submission to pictures.


def test_a_request_is_queued_painted_and_answered(served: Served) -> None:
    """States and keys are the hosted API's, because its SDK reads them."""
    response = served.client.post(V2, json=body(samples=2, output_format="png", prompt="Ümläut 🎈"))
    assert response.status_code == 200
    queued = response.json()
    assert queued.keys() == {"request_id", "status", "poll_url", "status_url", "response_url"}
    assert queued["status"] == "QUEUED"
    found = ended(served.client, queued["request_id"])
    assert found.status_code == 200
    answer = found.json()
    keys = {"status", "request_id", "output", "images", "seed", "prompt", "metrics", "status_url"}
    ours = {"seeds", "warnings", "pace", "unet_calls", "boxes", "model"}  # beyond the hosted API
    assert answer.keys() == keys | {"response_url"} | ours
    assert (answer["status"], answer["seed"], answer["prompt"]) == ("COMPLETED", 7, "Ümläut 🎈")
    assert answer["output"] == answer["images"][0]["url"]
    for number, image in enumerate(answer["images"]):
        picture = httpx2.get(image["url"], trust_env=False)  # without any key
        assert picture.headers["content-type"] == image["content_type"] == "image/png"
        assert len(picture.content) == image["file_size"]
        assert image["file_name"] == f"{number}.png"
        assert opened(picture.content).getpixel((40, 16)) == colour_of(7 + number)


def test_the_faintest_grey_that_counts_in_a_soft_mask_is_painted(served: Served) -> None:
    """An accepted mask is painted, also after it went through the store."""
    faint = b64(file_of(Image.new("L", SIZE, 8)))
    answer = ended(served.client, submitted(served.client, mask=faint, soft=True))
    assert answer.json()["status"] == "COMPLETED"


def test_a_near_answer_says_how_many_calls_were_made(served: Served) -> None:
    """The one place where a client can see what it got for less."""
    answer = ended(served.client, submitted(served.client, pace="near", scheduler="DDIM")).json()
    assert (answer["pace"], answer["unet_calls"]) == ("near", [13, 22])


def test_metrics_hold_seconds_and_credits(served: Served) -> None:
    """The hosted API's answer has the same metrics."""
    metrics = ended(served.client, submitted(served.client)).json()["metrics"]
    assert metrics.keys() == {"cost", "remaining_credits", "inference_time", "queue_time", "total_time"}
    assert metrics["inference_time"] == 1.75  # the fake engine's encode, denoise and decode
    assert 0 <= metrics["queue_time"] <= metrics["total_time"]
    assert metrics["remaining_credits"] > 1000


def test_the_old_poll_url_has_the_same_answer(served: Served) -> None:
    """Older clients poll ``GET /v1/requests/{id}``."""
    queued = served.client.post(V2, json=body()).json()
    new = ended(served.client, queued["request_id"])
    assert served.client.get(queued["poll_url"]).json() == new.json()
    assert queued["poll_url"].endswith(f"/v1/requests/{queued['request_id']}")


def test_status_words_follow_the_request(served: Served) -> None:
    """The SDK compares QUEUED, PROCESSING and COMPLETED exactly."""
    engine = engine_of(served)
    engine.held = True
    request_id = submitted(served.client)
    ticket = engine.next()
    eventually(lambda: status_of(served.client, request_id) == "PROCESSING")
    answer = served.client.get(f"/v2/requests/{request_id}")
    assert answer.status_code == 200
    assert answer.json()["images"] == []
    assert "output" not in answer.json()
    served.do(engine.paint, ticket)
    assert ended(served.client, request_id).json()["status"] == "COMPLETED"


def test_a_failed_request_comes_under_422_with_its_error(served: Served) -> None:
    """Status and answer hold the error as a sentence."""
    engine_of(served).failures.append(OutOfMemoryError("it did not fit into the GPU's memory"))
    answer = ended(served.client, request_id := submitted(served.client))
    for response in (answer, served.client.get(f"/v2/requests/{request_id}/status")):
        assert response.status_code == 422
        assert response.json()["status"] == "FAILED"
        assert response.json()["error"] == "it did not fit into the GPU's memory"
    assert answer.json()["metrics"]["cost"] == 0


def test_a_bug_fails_the_request_and_no_other(served: Served) -> None:
    """The request must not stay PROCESSING for ever."""
    engine_of(served).failures.append(RuntimeError("secret detail"))
    found = ended(served.client, submitted(served.client)).json()
    assert (found["status"], found["error"]) == ("FAILED", "internal error")
    assert ended(served.client, submitted(served.client)).status_code == 200


def test_what_cannot_be_painted_is_refused_immediately(served: Served, picture_host: PictureHost) -> None:
    """A request must not be accepted and then fail for a reason that was known."""
    black = b64(file_of(Image.new("L", SIZE, 0)))
    wrong = picture_host.put("/v2-html.png", b"<html>", "text/html")
    cases = [({"samples": 9}, 400), ({"mask": black}, 400), ({"image": wrong}, 502)]
    cases += [({"image": "http://10.0.0.1/"}, 422), ({"prompt": None}, 400)]
    for fields, status in cases:
        response = served.client.post(V2, json=body(**fields))
        assert response.status_code == status
        assert list(response.json()) == ["error"]
    assert engine_of(served).requests == []


def test_a_phone_picture_with_a_profile_survives_the_queue(served: Served) -> None:
    """A queued picture is stored as a file of ours, and must stay the same."""
    exif = Image.Exif()
    exif[0x0112] = 8
    turned = photo().transpose(Image.Transpose.ROTATE_270)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = b64(file_of(turned, "JPEG", quality=95, exif=exif, icc_profile=profile, dpi=(300, 300)))
    fields = body(image=image, output_format="png", scheduler="ddim", grow=3, soft="true", fill="blur")
    over_v1 = served.client.post(V1, json=fields)
    answer = ended(served.client, submitted(served.client, **fields)).json()
    assert httpx2.get(answer["output"], trust_env=False).content == over_v1.content
    assert opened(over_v1.content).info["icc_profile"] == profile
    first, second = engine_of(served).requests
    for name in ("scheduler", "grow", "soft", "fill", "seed", "prompt", "strength", "negative_prompt"):
        assert getattr(first, name) == getattr(second, name)


@pytest.mark.slow
def test_more_pictures_than_a_caller_may_send_fit_the_queue(served: Served) -> None:
    """A JPEG of 1 MB is a much larger PNG, and what we stored must be readable again."""
    image = Image.frombytes("RGB", (2700, 2700), random.Random(1).randbytes(3 * 2700 * 2700))
    data, grey = (
        b64(file_of(each, "JPEG", quality=20, subsampling=0)) for each in (image, image.convert("L"))
    )
    request_id = submitted(served.client, image=data, mask=grey, quality=1)
    folder = served.settings.data / "pictures" / request_id
    assert (folder / "image.png").stat().st_size > 20_000_000
    assert (folder / "mask.png").stat().st_size > 6_000_000, "grey, a third of it"
    assert ended(served.client, request_id).status_code == 200


# URLs.


def urls_of(response: httpx2.Response) -> set[str]:
    """Return the base of every URL in an answer."""
    found = response.json()
    return {found[name].partition("/v")[0] for name in ("poll_url", "status_url", "response_url")}


def test_urls_are_absolute_under_the_clients_own_host(served: Served) -> None:
    """The SDK calls the URLs unchanged."""
    assert urls_of(served.client.post(V2, json=body())) == {served.url}
    named = served.client.post(V2, json=body(), headers={"host": f"localhost:{served.port}"})
    assert urls_of(named) == {f"http://localhost:{served.port}"}


def test_a_public_url_wins(serve: Serve) -> None:
    """Behind a proxy that sends no headers the operator sets the URL."""
    served = serve(public_url="https://paint.example.com/", no_auth=True)
    assert urls_of(served.client.post(V2, json=body())) == {"https://paint.example.com"}


def test_a_trusted_proxys_scheme_counts_and_no_others(serve: Serve) -> None:
    """``X-Forwarded-Proto`` counts from the proxy on this machine; another client could forge it."""
    forwarded = {"x-forwarded-proto": "https", "host": "paint.example.com"}
    for trusted, scheme in (("127.0.0.1", "https"), ("10.1.2.3", "http")):
        served = serve(trusted_proxies=trusted, no_auth=True, allowed_hosts=("paint.example.com",))
        response = served.client.post(V2, json=body(), headers=forwarded)
        assert urls_of(response) == {f"{scheme}://paint.example.com"}
        served.stop()


# Other keys' requests.


def test_another_keys_request_does_not_exist(serve: Serve) -> None:
    """The answer is 404 and not 403, so ids cannot be guessed."""
    served = serve()
    with served.calling(key=served.key()) as mine, served.calling(key=served.key()) as theirs:
        request_id = submitted(mine)
        output = ended(mine, request_id).json()["output"]
        path = f"/v2/requests/{request_id}"
        paths = [path, f"{path}/status", f"{path}/events", f"{path}/images/0", f"/v1/requests/{request_id}"]
        unknown = theirs.get(f"/v2/requests/{'0' * 32}")
        for response in [theirs.get(p) for p in paths] + [theirs.delete(path)]:
            assert response.status_code == 404
            if not response.request.url.path.endswith("/images/0"):
                assert response.json() == unknown.json()
        for p in paths:
            assert served.client.get(p).status_code == 401
            assert mine.get(p).status_code == 200
        assert served.client.get(output).status_code == 200  # its URL opens the picture


def test_a_pictures_url_opens_that_requests_pictures_only(served: Served) -> None:
    """A URL that is passed on gives access to one request's pictures, not to the account."""
    first, second = (ended(served.client, submitted(served.client)).json()["output"] for _ in range(2))
    token = first.partition("token=")[2]
    swapped = second.partition("token=")[0] + "token="
    for wrong in (token, token[:-1], token + "x", "%00", "é", "x" * 5000):
        assert httpx2.get(swapped + wrong, trust_env=False).status_code == 404
    for number in ("1", "-1", "99999999999999999999", "abc"):
        path = first.replace("/images/0", f"/images/{number}")
        assert httpx2.get(path, trust_env=False).status_code in (400, 404)


@pytest.mark.parametrize("bad", ["x", "0" * 31, "0" * 33, "A" * 32, "..%2f..%2fetc", "%00", "'--"])
def test_an_id_that_cannot_be_is_404(served: Served, bad: str) -> None:
    """An invalid id gets the same answer as an unknown one."""
    for path in (f"/v2/requests/{bad}", f"/v2/requests/{bad}/status", f"/v1/requests/{bad}"):
        response = served.client.get(path)
        assert (response.status_code, list(response.json())) == (404, ["error"])


# Events.


def test_events_report_position_steps_previews_and_the_end(serve: Serve) -> None:
    """A page can show a progress bar and a rough picture without polling."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    engine.held = True
    first, second = submitted(served.client), submitted(served.client, num_inference_steps=20, strength=0.2)
    events = events_of(served.client, second)
    assert next(events) == ("queued", {"position": 1})
    served.do(engine.load)
    for request_id in (first, second):
        eventually(lambda: status_of(served.client, request_id) == "PROCESSING")  # noqa: B023
    last = next(t for t in (engine.next(), engine.next()) if t.request.num_inference_steps == 20)
    eventually(lambda: last.watchers)
    served.do(engine.paint, last)
    rest = [event for event in events if event != ("queued", {"position": 0})]
    assert [name for name, _ in rest] == ["step"] * 4 + ["done"]
    assert [(data["step"], data["steps"]) for name, data in rest if name == "step"] == [
        (k, 4) for k in range(1, 5)
    ]
    preview = rest[0][1]["preview"]
    with httpx2.Client() as _, Image.open(io.BytesIO(_data(preview))) as picture:
        assert picture.size == (4, 4)
    assert rest[-1][1] == served.client.get(f"/v2/requests/{second}").json()
    served.client.delete(f"/v2/requests/{first}")


def _data(uri: str) -> bytes:
    import base64

    head, _, text = uri.partition(",")
    assert head == "data:image/png;base64"
    return base64.b64decode(text)


def test_events_of_an_ended_request_are_its_end(served: Served) -> None:
    """A client that connects late gets the result."""
    done = submitted(served.client)
    ended(served.client, done)
    assert [name for name, _ in events_of(served.client, done)] == ["done"]
    engine_of(served).failures.append(OutOfMemoryError("too large"))
    failed = submitted(served.client)
    ended(served.client, failed)
    [(name, data)] = events_of(served.client, failed)
    assert (name, data["status"], data["error"]) == ("failed", "FAILED", "too large")


def test_a_listener_that_leaves_stops_the_previews(served: Served) -> None:
    """Previews cost GPU time and are made only while a client listens."""
    engine = engine_of(served)
    engine.held = True
    request_id = submitted(served.client)
    ticket = engine.next()
    with served.calling() as other, other.stream("GET", f"/v2/requests/{request_id}/events"):
        eventually(lambda: ticket.watchers == 1)
    eventually(lambda: ticket.watchers == 0)
    served.do(engine.paint, ticket)
    assert ended(served.client, request_id).json()["status"] == "COMPLETED"


# Cancelling.


def test_a_running_request_stops_within_a_step(served: Served) -> None:
    """A cancelled request is FAILED with a reason, because the hosted API has no other state for it."""
    engine = engine_of(served)
    engine.held = True
    request_id = submitted(served.client)
    ticket = engine.next()
    served.do(engine.step, ticket)
    response = served.client.delete(f"/v2/requests/{request_id}")
    assert response.status_code == 200
    assert (response.json()["status"], response.json()["error"]) == ("FAILED", "cancelled")
    assert ticket.state == "cancelled"
    assert served.client.get(f"/v2/requests/{request_id}/status").status_code == 422


def test_a_queued_request_is_never_begun(serve: Serve) -> None:
    """A request that is cancelled in the queue is not charged either."""
    engine = FakeEngine(loaded=False)
    served = serve(engine, **PRICE)
    with served.calling(key=served.key(balance=1)) as client:
        request_id = submitted(client)
        assert credits_left(client) < 1
        assert client.delete(f"/v2/requests/{request_id}").json()["status"] == "FAILED"
        assert credits_left(client) == 1
        served.do(engine.load)
        ended(client, submitted(client))
    assert len(engine.requests) == 1


def test_an_ended_request_stays_as_it_is(served: Served) -> None:
    """Cancelling a painted request gives no refund."""
    done = submitted(served.client)
    ended(served.client, done)
    assert served.client.delete(f"/v2/requests/{done}").json()["status"] == "COMPLETED"
    engine_of(served).failures.append(OutOfMemoryError("too large"))
    failed = submitted(served.client)
    ended(served.client, failed)
    assert served.client.delete(f"/v2/requests/{failed}").json()["error"] == "too large"


def test_only_what_was_begun_is_paid(serve: Serve) -> None:
    """A request that is cancelled after its first step has cost GPU time."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, **PRICE)
    with served.calling(key=served.key(balance=1)) as client:
        request_id = submitted(client)
        engine.next()
        client.delete(f"/v2/requests/{request_id}")
        assert credits_left(client) == 1
        request_id = submitted(client)
        served.do(engine.step, engine.next())
        client.delete(f"/v2/requests/{request_id}")
        assert credits_left(client) == pytest.approx(1 - COST)
    assert served.parts.ledger.check() == []


def test_a_request_cancelled_on_its_way_to_the_engine_takes_no_step(
    served: Served, background: Background
) -> None:
    """For a moment a request is neither in the queue nor in the engine."""
    engine = engine_of(served)
    engine.held = True
    served.do(engine.door.clear)
    request_id = submitted(served.client)
    eventually(lambda: served.do(lambda: len(engine.door._waiters)) == 1)
    deleted = background(served.client.delete, f"/v2/requests/{request_id}")
    eventually(lambda: served.running.queue._live[request_id].cancelled)
    served.do(engine.door.set)
    assert deleted.result().json()["status"] == "FAILED"
    assert engine.next().state == "cancelled"


def test_cancelling_races_with_beginning(served: Served, background: Background) -> None:
    """In either order the request ends once, and DELETE returns."""
    engine = engine_of(served)
    engine.held = True
    ids = [submitted(served.client) for _ in range(8)]
    deletes = [background(served.client.delete, f"/v2/requests/{request_id}") for request_id in ids]
    assert {found.result().json()["status"] for found in deletes} == {"FAILED"}
    eventually(lambda: all(ticket.finished for ticket in engine.tickets))
    assert not served.running.queue._live


# Idempotency-Key.


def test_one_key_is_one_request_charged_once(serve: Serve) -> None:
    """A client that lost the answer repeats its request, on v1 as on v2."""
    served = serve(**PRICE)
    with served.calling(key=served.key(balance=1), Idempotency_Key="k-1") as client:
        first = submitted(client)
        ended(client, first)
        assert submitted(client) == first
        painted = client.post(V1, json=body())
        assert painted.status_code == 200
        assert painted.headers["x-seed-value"] == "7"
        assert client.post(V1, json=body()).content == painted.content
        assert credits_left(client) == pytest.approx(1 - COST)
    assert len(engine_of(served).requests) == 1


def test_a_form_and_its_retry_are_the_same_body(serve: Serve) -> None:
    """A retried form has another boundary, and a JSON object another order."""
    served = serve()
    again = {"Idempotency-Key": "k-2"}
    files = {"image": ("a.png", PHOTO), "mask": ("b.png", MASK)}
    ids = {
        served.client.post(V2, data={"prompt": "x"}, files=files, headers=again).json()["request_id"]
        for _ in range(2)
    }
    assert len(ids) == 1
    json_ids = {
        submitted(served.client, headers={"Idempotency-Key": "k-3"}, **fields)
        for fields in ({"samples": 1, "grow": 4}, {"grow": 4, "samples": 1})
    }
    assert len(json_ids) == 1


def test_one_key_with_another_body_is_422(served: Served) -> None:
    """This is the caller's mistake, and must not return the first request's picture."""
    key = {"Idempotency-Key": "k-other"}
    submitted(served.client, headers=key)
    for path in (V1, V2):
        response = served.client.post(path, json=body(prompt="another"), headers=key)
        assert response.status_code == 422
        assert "Idempotency-Key" in response.json()["error"]


def test_two_callers_may_use_the_same_idempotency_key(serve: Serve) -> None:
    """Idempotency keys belong to one API key, so callers do not see each other's requests."""
    served = serve()
    with served.calling(key=served.key(), Idempotency_Key="1") as one:
        first = submitted(one)
    with served.calling(key=served.key(), Idempotency_Key="1") as other:
        assert submitted(other) != first


def test_the_key_of_a_request_in_flight_finds_it(served: Served) -> None:
    """A retry must not start a second painting."""
    engine = engine_of(served)
    engine.held = True
    key = {"Idempotency-Key": "k-flight"}
    request_id = submitted(served.client, headers=key)
    ticket = engine.next()
    assert submitted(served.client, headers=key) == request_id
    served.do(engine.paint, ticket)
    assert ended(served.client, request_id).status_code == 200


def test_one_key_sent_by_many_simultaneously_is_one_request(serve: Serve, background: Background) -> None:
    """Only the database can detect two requests that arrive simultaneously."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, **PRICE)
    with served.calling(key=served.key(balance=1), Idempotency_Key="k-many") as client:
        v2 = [background(submitted, client, seed=None) for _ in range(4)]
        v1 = [background(client.post, V1, json=body(seed=None)) for _ in range(4)]
        assert len({found.result() for found in v2}) == 1
        served.do(engine.paint, engine.next())
        answers = [found.result() for found in v1]
        assert {found.status_code for found in answers} == {200}
        assert len({found.content for found in answers}) == 1
        assert credits_left(client) == pytest.approx(1 - COST)
    assert len(engine.requests) == 1
    assert len(list((served.settings.data / "pictures").iterdir())) == 1  # the files of the others are gone


def test_a_failure_is_repeated_with_its_status(served: Served) -> None:
    """The same key is the same request, also if it failed."""
    engine_of(served).failures.append(OutOfMemoryError("too large"))
    key = {"Idempotency-Key": "k-fails"}
    answers = [served.client.post(V1, json=body(), headers=key) for _ in range(2)]
    assert [found.status_code for found in answers] == [503, 503]
    assert {found.json()["error"] for found in answers} == {"too large"}


def test_a_caller_with_a_key_may_hang_up_and_ask_again(serve: Serve) -> None:
    """The picture is painted while the client is disconnected, and its place is free."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine)
    content = json.dumps(body())
    head = ("POST /v1/sdxl-inpaint HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    head += ("Idempotency-Key: again", f"Content-Length: {len(content)}")
    connection = served.raw(*head, send=content.encode())
    ticket = engine.next()
    connection.close()
    eventually(lambda: served.running.service._under_way == 1)  # the painting, not the caller
    assert not ticket.finished
    served.do(engine.paint, ticket)
    again = served.client.post(V1, json=body(), headers={"Idempotency-Key": "again"})
    assert again.status_code == 200
    assert len(engine.requests) == 1


# Restarts.


def test_what_was_queued_or_running_is_painted_by_the_next_server_once(serve: Serve) -> None:
    """A restart loses no accepted request."""
    engine = FakeEngine()
    engine.held = True
    first = serve(engine, max_rows=1, workers=0, **PRICE)  # two at the engine, one in the queue
    token = first.key(balance=1)
    with first.calling(key=token) as client:
        ids = [submitted(client, seed=seed) for seed in (1, 2, 3)]
        for _ in range(2):
            first.do(engine.step, engine.next())
        eventually(lambda: [status_of(client, i) for i in ids].count("PROCESSING") == 2)
    first.stop()
    second = serve(**PRICE)
    with second.calling(key=token) as client:
        answers = [ended(client, request_id).json() for request_id in ids]
        assert [found["seed"] for found in answers] == [1, 2, 3]
        assert {found["status"] for found in answers} == {"COMPLETED"}
        assert credits_left(client) == pytest.approx(1 - 3 * COST)
    assert sorted(request.seed for request in engine_of(second).requests) == [1, 2, 3]
    assert second.parts.ledger.check() == []


def test_a_killed_servers_requests_are_painted_or_refunded(serve: Serve) -> None:
    """v1 clients have disconnected and are refunded; v2 requests are queued again."""
    engine = FakeEngine(loaded=False)
    first = serve(engine, **PRICE)
    token = first.key(balance=1)
    with first.calling(key=token) as client:
        v2 = submitted(client)
        record = first.parts.store.get(v2, token.split("_")[1])
    first.stop()
    with Database(first.settings.database) as database:  # as `kill -9` leaves it
        store = Store(database)
        store.begin(v2)
        cut_off = record.new(
            id="f" * 32, key_id=record.key_id, mode="v1", fields=record.fields, seeds=[1], cost_micro=9
        )
        store.accept(cut_off)
        store.begin(cut_off.id)
    second = serve(**PRICE)
    with second.calling(key=token) as client:
        assert ended(client, v2).json()["status"] == "COMPLETED"
        lost = client.get(f"/v2/requests/{cut_off.id}")
        assert (lost.status_code, lost.json()["status"]) == (422, "FAILED")
        assert credits_left(client) == pytest.approx(1 - COST)
    assert second.parts.ledger.check() == []


def test_a_request_that_took_two_servers_down_is_not_tried_again(serve: Serve) -> None:
    """A request is tried at most twice, then it fails alone and is refunded."""
    engine = FakeEngine(loaded=False)
    first = serve(engine, **PRICE)
    token = first.key(balance=1)
    with first.calling(key=token) as client:
        request_id = submitted(client)
    first.stop()
    with Database(first.settings.database) as database:
        store = Store(database)
        store.begin(request_id)
        store.recover()
        store.begin(request_id)
    second = serve(**PRICE)
    with second.calling(key=token) as client:
        found = ended(client, request_id)
        assert found.json()["status"] == "FAILED"
        assert "not tried again" in found.json()["error"]
        assert credits_left(client) == 1
    assert engine_of(second).requests == []


def test_a_revoked_keys_queued_request_is_failed_and_refunded(serve: Serve) -> None:
    """Revoking a key also stops its queued requests."""
    engine = FakeEngine(loaded=False)
    served = serve(engine, **PRICE)
    token = served.key(balance=1)
    with served.calling(key=token) as client:
        request_id = submitted(client)
    key_id = token.split("_")[1]
    served.parts.keys.revoke(key_id)
    served.do(engine.load)
    eventually(lambda: served.parts.store.get(request_id, key_id).state == "FAILED")
    assert served.parts.ledger.balance(key_id) == 1_000_000
    assert engine.requests == []


def test_an_engine_that_is_not_ready_is_waited_for(served: Served, serve: Serve, tmp_path: Path) -> None:
    """A worker that restarts must not fail queued v2 requests."""
    engine = FakeEngine(loaded=False)
    other = serve(engine, data=tmp_path / "other")
    request_id = submitted(other.client)
    assert status_of(other.client, request_id) == "QUEUED"
    other.do(engine.load)
    assert ended(other.client, request_id).status_code == 200


# Expiry.


def test_records_expire_before_their_pictures(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default records are kept for an hour and pictures for a week; then the answer is 404."""
    first = serve()
    request_id = submitted(first.client)
    output = ended(first.client, request_id).json()["output"]
    path = output.removeprefix(first.url)
    first.stop()
    second = serve(requests_ttl_s=0.001)  # a sweep runs at the start
    eventually(lambda: second.client.get(f"/v2/requests/{request_id}").status_code == 404)
    assert second.client.get(path).status_code == 200
    second.stop()
    monkeypatch.setattr("server.service.sweeper._EVERY_S", 0.01)
    third = serve(requests_ttl_s=0.001, pictures_ttl_s=0.001)
    eventually(lambda: third.client.get(path).status_code == 404)
    folder = third.settings.data / "pictures"
    eventually(lambda: list(folder.iterdir()) == [])
    eventually(lambda: rows_of(third) == 0)  # the database has no trace of it


def test_a_key_that_stores_as_much_as_it_may_is_429_and_may_use_v1(serve: Serve) -> None:
    """What it has is kept, what is refused leaves no file, and other keys go on."""
    served = serve(max_stored_bytes_per_key=1000)  # one request and its picture
    folder = served.settings.data / "pictures"
    with served.calling(key=served.key()) as client, served.calling(key=served.key()) as other:
        request_id = submitted(client)
        assert ended(client, request_id).status_code == 200
        refused = client.post(V2, json=body(seed=8))
        assert refused.status_code == 429
        assert "INPAINT_MAX_STORED_BYTES_PER_KEY" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1
        assert [path.name for path in folder.iterdir()] == [request_id]
        assert client.post("/v1/sdxl-inpaint", json=body()).status_code == 200
        assert other.post(V2, json=body()).status_code == 200


def rows_of(served: Served) -> int:
    with served.parts.database.read() as connection:
        return len(connection.execute(select(requests.c.id)).all())
