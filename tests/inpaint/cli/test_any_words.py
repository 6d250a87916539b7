"""Whatever a user types, or a jobs file holds, is painted or explained, and is never called a bug."""

import json
import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inpaint.request import SETTINGS
from tests.support.examples import examples
from tools.fuzz import arguments, command_line, jobs
from tools.fuzz.__main__ import mutated

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(
    st.integers() | st.text(max_size=5), max_size=4
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def own_place() -> Iterator[None]:
    """Return to the working folder and the variables from before."""
    folder, variables = os.getcwd(), dict(os.environ)  # noqa: PTH109
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    command_line.place.cache_clear()


@given(
    words=st.lists(st.sampled_from(arguments._WORDS) | st.text(max_size=8), max_size=6),
    command=st.sampled_from(["run", "info", "loras", "loras\0list", "models\0list", "schedulers", ""]),
)
@examples(300)
def test_any_words_are_understood_or_refused(words: list[str], command: str) -> None:
    """``one`` raises what the command line would have called a bug."""
    data = "\0".join([command, *words]).encode("utf-8", "surrogatepass")
    assert arguments.one(data) in ("exit 0", "exit 1", "exit 2", "exit 3", "exit 4", "exit None", "left out")


@given(seed=st.integers(0, 10**9), changes=st.integers(1, 5))
@examples(300)
def test_any_command_line_that_was_damaged(seed: int, changes: int) -> None:
    """From those in the documents."""
    chance, target = random.Random(seed), arguments.target()
    data = chance.choice(list(target.seeds))
    for _ in range(changes):
        data = mutated(target, data, chance)
    assert arguments.one(data).startswith(("exit", "left out"))


@given(
    line=st.dictionaries(
        st.sampled_from(("image", "mask", "output", "extend", *SETTINGS)), VALUES, max_size=5
    )
)
@examples(300)
def test_any_line_of_a_jobs_file(line: dict[str, object]) -> None:
    """A program that writes the file makes mistakes of every kind."""
    good = {"image": "photo.png", "mask": "mask.png", "prompt": "x"}
    assert jobs.one(json.dumps({**good, **line}).encode()) in ("exit 0", "exit None", "exit 2", "exit 3")


@given(seed=st.integers(0, 10**9), changes=st.integers(1, 5))
@examples(300)
def test_any_bytes_of_a_jobs_file(seed: int, changes: int) -> None:
    """Half a line, two on one, another encoding."""
    chance, target = random.Random(seed), jobs.target()
    data = chance.choice(list(target.seeds))
    for _ in range(changes):
        data = mutated(target, data, chance)
    assert jobs.one(data).startswith("exit")
