"""Clients that a server must survive: bombs, slow uploads, downloads that nobody reads, idle sockets."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

_LINGER_S = 60.0  # a connection that the server does not end is ended, and opened anew
_BOMBS: dict[str, tuple[str, str]] = {  # field and value of a form
    "commas": ("loras", "a," * 1_000_000),
    "numbers": ("extend", "0," * 1_000_000),
    "brackets": ("prompt", "(" * 5_000 + ")" * 5_000),
    "long text": ("scheduler", "x" * 4_000_000),
    "deep JSON": ("seed", "[" * 980 + "]" * 980),
}


@dataclass(slots=True)
class Attackers:
    """Everything that attacks one server at the same time, until ``stopped``."""

    host: str
    port: int
    key: str
    picture: str = ""  # path of a painted picture, token included; "" as long as there is none
    answers: Counter[str] = field(default_factory=Counter)  # attack and status → how often
    stopped: bool = False

    async def run(self, *, idle: int = 300, slow: int = 8, unread: int = 8) -> None:
        """Attack; ``idle``, ``slow`` and ``unread`` are the numbers of connections of each kind."""
        kinds = {self._bombs: 1, self._idle: idle, self._slow_upload: slow, self._unread_download: unread}
        async with asyncio.TaskGroup() as group:
            for attack, count in kinds.items():
                for _ in range(count):
                    group.create_task(self._again(attack))

    async def _again(self, attack: Callable[[], Awaitable[None]]) -> None:
        while not self.stopped:
            with suppress(OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
                await attack()
            await asyncio.sleep(0.1)

    async def _bombs(self) -> None:
        for name, (where, value) in itertools.cycle(_BOMBS.items()):
            if self.stopped:
                return
            deep = name == "deep JSON"
            kind = "application/json" if deep else "multipart/form-data; boundary=b"
            body = (_json(where, value) if deep else _form(where, value)).encode()
            reader, writer = await self._connect()
            try:
                writer.write(self._head(len(body), kind) + body)
                await writer.drain()
                status = (await asyncio.wait_for(reader.readline(), _LINGER_S)).split()
                self.answers[f"{name}: {status[1].decode() if len(status) > 1 else 'closed'}"] += 1
            finally:
                writer.close()
            await asyncio.sleep(0.5)

    async def _idle(self) -> None:
        """Open a connection and say nothing."""
        reader, writer = await self._connect()
        await self._until_closed(reader, writer)

    async def _slow_upload(self) -> None:
        """Announce a picture and send it a few bytes at a time."""
        reader, writer = await self._connect()
        writer.write(self._head(1_000_000, "application/json"))
        ended = asyncio.ensure_future(self._until_closed(reader, writer))
        while not ended.done() and not self.stopped:
            writer.write(b" " * 64)
            await asyncio.sleep(0.5)
        await ended

    async def _unread_download(self) -> None:
        """Ask for a picture and read none of it."""
        if not self.picture:
            return
        _, writer = await self._connect(limit=1024)
        writer.write(f"GET {self.picture} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode())
        await writer.drain()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while not self.stopped:
                    await asyncio.sleep(0.5)
        writer.close()

    async def _until_closed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                while not self.stopped and await reader.read(4096):
                    pass
        finally:
            writer.close()

    async def _connect(self, limit: int = 65_536) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(10):
            return await asyncio.open_connection(self.host, self.port, limit=limit)

    def _head(self, length: int, kind: str) -> bytes:
        return (
            f"POST /v1/sdxl-inpaint HTTP/1.1\r\nHost: {self.host}\r\nx-api-key: {self.key}\r\n"
            f"Content-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        ).encode()


def _form(name: str, value: str) -> str:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n--b--\r\n'


def _json(name: str, value: str) -> str:
    """Return a body that is long enough to be parsed outside the event loop."""
    return f'{{"{name}": {value}, "pad": "{"x" * 20_000}"}}'
