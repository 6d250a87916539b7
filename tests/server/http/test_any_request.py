"""Whatever a client sends, the server answers with one sentence and is no bug's victim."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.dialects.segmind_request import InpaintBody
from tests.support.examples import examples
from tests.support.served import body
from tools.fuzz import http
from tools.fuzz.__main__ import mutated
from tools.fuzz.mutations import json_bytes

FIELDS = (*InpaintBody.model_fields, "imageUrl", "maskUrl", "nonsense")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True, scope="module")
def service() -> Iterator[None]:
    """One application for all."""
    yield
    http.service().close()
    http.service.cache_clear()


@pytest.mark.parametrize(
    "route", ["/v1/sdxl-inpaint", "/v2/sdxl-inpaint", "/v2/info", "/v2/picture", "/v2/select", "/v2/erase"]
)
@given(fields=st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4))
@examples(300)
def test_any_fields_are_answered(route: str, fields: dict[str, object]) -> None:
    """200 or a sentence, never an internal error; ``one`` raises the error of a bug."""
    sent = json_bytes({**body(), **fields})
    assert http.one(f"POST {route}\ncontent-type: application/json\n\n".encode() + sent) != "500"


@pytest.mark.parametrize("route", http.dialects())
@given(data=st.data())
@examples(150)
def test_any_fields_of_other_programs_apis_are_answered(route: str, data: st.DataObject) -> None:
    """Any field of a good request may be missing, or hold anything."""
    plain = http.dialects()[route]
    names = st.sampled_from([*plain, "nonsense", "image[]", "image"])
    fields = plain | data.draw(st.dictionaries(names, VALUES, max_size=4))
    for name in data.draw(st.sets(st.sampled_from(list(plain)), max_size=3)):
        fields.pop(name, None)
    sent = json_bytes(fields)
    assert http.one(f"POST {route}\ncontent-type: application/json\n\n".encode() + sent) != "500"


@given(seed=st.integers(0, 10**9), changes=st.integers(1, 6))
@examples(300)
def test_any_bytes_are_answered(seed: int, changes: int) -> None:
    """Routes, heads, forms and bodies that a program has damaged."""
    chance, target = random.Random(seed), http.target()
    data = chance.choice(list(target.seeds))
    for _ in range(changes):
        data = mutated(target, data, chance)
    assert http.one(data) != "500"
