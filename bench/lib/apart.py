"""A contender in a process of its own.

On a CPU the torch threads of one contender slow down those of another in the same process, even while they
idle: libgomp lets its threads spin only as long as there are no more of them than cores.
"""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from inpaint.errors import InpaintError, RequestError

Work = Callable[[Any], Any]  # takes and gives what can be pickled
Open = Callable[[], AbstractContextManager[tuple[Any, Work]]]  # with what it has to tell of itself


@dataclass(frozen=True, slots=True)
class Apart:
    """Calls the work of a contender in another process."""

    connection: Connection
    told: Any

    def __call__(self, given: Any) -> Any:
        """What the work gave there."""
        self.connection.send(given)
        return self.connection.recv()


@contextmanager
def apart(opens: Open, threads: int | None) -> Iterator[Apart]:
    """A contender opened in a process of its own, for the length of the block.

    Args:
        opens: a function of some module's top level, perhaps with arguments bound.
        threads: of torch in that process; torch's own choice if None.

    Raises:
        RequestError: it cannot be opened there.
    """
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_serve, args=(there, opens, threads), daemon=True)
    child.start()
    there.close()
    try:
        told, refused = here.recv()
        if refused:
            raise RequestError("contender", refused)
        yield Apart(here, told)
    finally:
        here.close()
        child.join(30)
        if child.is_alive():
            child.terminate()


def _serve(connection: Connection, opens: Open, threads: int | None) -> None:
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(threads)
        import torch

        torch.set_num_threads(threads)
    try:
        with opens() as (told, work):
            connection.send((told, ""))
            while True:
                connection.send(work(connection.recv()))
    except InpaintError as error:
        connection.send((None, str(error)))
    except EOFError:
        return
