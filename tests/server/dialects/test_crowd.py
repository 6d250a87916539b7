"""Fifty clients of four dialects and four keys at the same time, on a real server with the demo model."""

import math
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx2
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import select

from server.storage import tables
from server.storage.ledger import MICRO
from tests.support.dialects import WAYS, Way
from tests.support.served import file_of, opened
from tests.support.server_process import Accounts, ServerProcess, accounts, cli, eventually

pytestmark = pytest.mark.slow

# The first key sends more than all others together, and sends first.
CLIENTS = {"flood": 29, "a": 7, "b": 7, "c": 7}
DEPOSIT, PRICE = 5.0, 0.01
# What each dialect is asked for to take few steps; one cannot say that, and so has the fewest clients.
FEW = {
    "segmind": {"num_inference_steps": 20, "strength": 0.2},
    "openai": {"num_inference_steps": 5, "strength": 0.8},
    "a1111": {"steps": 5, "denoising_strength": 0.8},
    "stability": {},
}
STEPS = {"segmind": 4, "openai": 4, "a1111": 4, "stability": 22}
PATIENCE_S = 300.0  # the last answer waits for all others; on an idle machine that takes ten seconds
KEPT = 64  # columns on the left that no mask and no feather reaches


@dataclass(frozen=True, slots=True)
class Client:
    """One client, whose picture, prompt and seed no other has."""

    number: int
    key: str
    way: Way

    @property
    def size(self) -> tuple[int, int]:
        return 128 + 8 * (self.number % 3), 96 + 8 * (self.number % 5)

    @property
    def seed(self) -> int:
        return 1000 + self.number

    def picture(self) -> Image.Image:
        """Return noise."""
        noise = np.random.default_rng(self.number).integers(0, 256, (*self.size[::-1], 3), dtype=np.uint8)
        return Image.fromarray(noise)

    def mask(self) -> Image.Image:
        """Return a mask of the right, wider or narrower by the client's number."""
        mask = Image.new("L", self.size)
        mask.paste(255, (KEPT + 24 + self.number % 8, 16, *self.size))
        return mask

    def post(self, client: httpx2.Client, token: str) -> httpx2.Response:
        """Send the client's request."""
        kind, data = self.way.content(
            image=file_of(self.picture()),
            mask=file_of(self.mask()),
            prompt=f"a {('red', 'green', 'blue')[self.number % 3]} circle",
            seed=self.seed,
            **FEW[self.way.name],
        )
        headers = {"content-type": kind, "accept": "*/*", "authorization": f"Bearer {token}"}
        return client.post(self.way.path, content=data, headers=headers, timeout=PATIENCE_S)

    def price_micro(self) -> int:
        """Return what the request costs: steps × megapixels × the price."""
        width, height = self.size
        return math.ceil(STEPS[self.way.name] * width * height / 1e6 * PRICE * MICRO)


def clients() -> list[Client]:
    """Return all clients, whose dialects take turns; the last of these has a turn in ten."""
    keys = [name for name, count in CLIENTS.items() for _ in range(count)]
    return [
        Client(number, key, WAYS[3] if number % 10 == 3 else WAYS[number % 3])
        for number, key in enumerate(keys)
    ]


@dataclass(frozen=True, slots=True)
class Crowd:
    """A server, and what its clients got: answers by number, in the order in which they came; refusals."""

    server: ServerProcess
    books: Accounts
    keys: dict[str, tuple[str, str]]  # id and token
    answers: dict[int, httpx2.Response] = field(default_factory=dict)
    refused: list[tuple[Way, httpx2.Response]] = field(default_factory=list)

    def of(self, key: str) -> list[Client]:
        return [client for client in clients() if client.key == key]

    def let_in(self) -> None:
        """Let all clients in, the other keys' once all of the first key's are there.

        Nothing is painted before all are there: how fast they come would decide who is first, and not the
        server.
        """
        with ThreadPoolExecutor(len(clients()) + 8) as pool:
            with self._nothing_painted():
                sent = [pool.submit(self._send, client) for client in self.of("flood")]
                eventually(lambda: len(self.costs("flood")) == len(sent))
                others = [client for client in clients() if client.key != "flood"]
                sent += [pool.submit(self._send, client) for client in others]
                self.refused.extend(pool.map(self._fail, clients()[:8]))
                eventually(lambda: sum(len(self.costs(key)) for key in CLIENTS) == len(sent))
            for answer in sent:
                answer.result()

    @contextmanager
    def _nothing_painted(self) -> Iterator[None]:
        """Stop the process that paints for the length of the block."""
        for worker in self.server.workers():
            os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            for worker in self.server.workers():
                os.kill(worker, signal.SIGCONT)

    def _send(self, client: Client) -> None:
        self.answers[client.number] = client.post(self.server.client, self.keys[client.key][1])

    def _fail(self, client: Client) -> tuple[Way, httpx2.Response]:
        token = self.keys["poor"][1] if client.number < 4 else "wrong"
        return client.way, client.post(self.server.client, token)

    def costs(self, key: str) -> list[int]:
        """Return the price of each request that a key has made."""
        columns = (tables.requests.c.key_id, tables.requests.c.cost_micro)
        with self.books.database.read() as connection:
            rows = connection.execute(select(*columns)).all()
        return sorted(cost for key_id, cost in rows if key_id == self.keys[key][0])


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crowd]:
    """Serve, and let all clients in at the same time, with eight more who cannot pay or have no key."""
    data = tmp_path_factory.mktemp("crowd")
    settings = {"metering": True, "price": PRICE, "max_in_flight_per_key": 32}
    with accounts(data) as books:
        keys = {name: books.key(DEPOSIT) for name in CLIENTS} | {"poor": books.key(0)}
        with ServerProcess(cli(data, "--device", "cpu"), **settings) as server:
            server.wait_ready()
            found = Crowd(server, books, keys)
            found.let_in()
            yield found


def test_every_client_gets_its_own_picture(crowd: Crowd) -> None:
    """In its own size, with its own pixels outside its mask, and the seed that it asked for."""
    for client in clients():
        response = crowd.answers[client.number]
        assert response.status_code == 200, (client, response.text[:300])
        painted = opened(client.way.painted(response))
        assert painted.size == client.size
        kept = (0, 0, KEPT, client.size[1])
        assert painted.crop(kept).tobytes() == client.picture().crop(kept).tobytes(), client
        assert client.way.seed(response) == client.seed
        assert painted.tobytes() != client.picture().tobytes()


@pytest.mark.gate
def test_what_is_painted_is_what_the_client_gets_alone(crowd: Crowd) -> None:
    """Prompt, seed and mask are its own as well: a neighbour's would paint another circle."""
    for way in WAYS:
        client = next(each for each in clients() if each.way is way)
        alone = opened(client.way.painted(client.post(crowd.server.client, crowd.keys["c"][1])))
        together = opened(client.way.painted(crowd.answers[client.number]))
        difference = np.abs(np.asarray(alone).astype(int) - np.asarray(together).astype(int))
        assert difference.max() <= 8, client.way.name  # the last bits depend on who shares a batch


def test_no_key_waits_behind_another(crowd: Crowd) -> None:
    """The key with most requests sent them first; in turn of arrival all others would be served last."""
    answered = [clients()[number] for number in crowd.answers]
    assert len(answered) == len(clients())
    # A long one is overtaken by short ones of any key, so only those of one length are compared.
    keys = [client.key for client in answered if STEPS[client.way.name] == 4]
    last = max(at for at, key in enumerate(keys) if key != "flood")
    assert len(keys) - last > 3, " ".join(keys)


def test_those_who_cannot_pay_are_refused_in_their_dialects_words(crowd: Crowd) -> None:
    """In the middle of the crowd, too."""
    assert [response.status_code for _, response in crowd.refused[4:]] == [401] * 4
    for way, response in crowd.refused:
        assert way.refusal(response)
    assert all(response.headers["x-should-retry"] == "false" for _, response in crowd.refused[:4])


def test_one_ledger_holds_what_all_dialects_paint(crowd: Crowd) -> None:
    """Each key paid the sum of its pictures' prices, to the last micro-credit, and nothing else."""
    with crowd.books.database.read() as connection:
        assert set(connection.execute(select(tables.requests.c.state)).scalars()) == {"COMPLETED"}
    assert crowd.books.ledger.check() == []
    for name, (key_id, token) in crowd.keys.items():
        found = crowd.costs(name)
        if name != "c":  # which paints some pictures again, in another test
            assert found == sorted(client.price_micro() for client in crowd.of(name)), name
        left = crowd.books.ledger.balance(key_id)
        assert left == (DEPOSIT * MICRO if name in CLIENTS else 0) - sum(found), name
        said = crowd.server.client.get("/v1/get-user-credits", headers={"api-key": token}).json()
        assert said["credits"] == pytest.approx(left / MICRO)
