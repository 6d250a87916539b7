"""A contender in its own process.

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

Work = Callable[[Any], Any]  # argument and result can be pickled
Open = Callable[[], AbstractContextManager[tuple[Any, Work]]]  # (facts for the parent, work)


@dataclass(frozen=True, slots=True)
class OwnProcess:
    """A contender's work in another process, called as a function."""

    connection: Connection
    opened: Any  # the facts that the contender sent when it was open

    def __call__(self, given: Any) -> Any:
        """Send ``given`` to the process and return the result of its work."""
        self.connection.send(given)
        return self.connection.recv()


@contextmanager
def own_process(opens: Open, threads: int | None) -> Iterator[OwnProcess]:
    """Open a contender in its own process, for the length of the block.

    Args:
        opens: a function at a module's top level, or a partial of one.
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
        opened, refused = here.recv()
        if refused:
            raise RequestError("contender", refused)
        yield OwnProcess(here, opened)
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
        with opens() as (opened, work):
            connection.send((opened, ""))
            while True:
                connection.send(work(connection.recv()))
    except InpaintError as error:
        connection.send((None, str(error)))
    except EOFError:
        return
