"""The models of a server: their names for clients, and which workers each gets."""

from pathlib import Path

import pytest

from inpaint.errors import RequestError
from server.models import Models, name_of
from server.settings import read_settings


def test_models_are_known_by_the_last_part_of_their_paths() -> None:
    """A folder is the operator's; a version's full stop belongs to the name."""
    models = Models.parse("demo, /home/ann/models/beach-v1.5.safetensors,/srv/juggernaut-v9.5/")
    assert models.names == ["demo", "beach-v1.5", "juggernaut-v9.5"]
    assert models.given["beach-v1.5"] == "/home/ann/models/beach-v1.5.safetensors"
    assert (models.default, models.several) == ("demo", True)
    assert name_of("/") == "model"


def test_one_model_is_as_before(tmp_path: Path) -> None:
    """A comma in the path of a model that is there separates nothing."""
    folder = tmp_path / "sea,sand"
    folder.mkdir()
    assert Models.parse(str(folder)).given == {"sea,sand": str(folder)}
    assert not Models.parse("demo").several


def test_the_first_model_paints_what_names_none() -> None:
    """Clients that know of no choice send no name, or an empty one."""
    models = Models.parse("demo,beach")
    assert [models.named(name) for name in (None, "", "beach", "demo")] == ["demo", "demo", "beach", "demo"]
    with pytest.raises(RequestError, match="model: must be one of demo, beach, not 'bech'"):
        models.named("bech")


@pytest.mark.parametrize(
    ("count", "dealt"),
    [
        (0, {"a": [0], "b": [1], "c": [2]}),
        (1, {"a": [0], "b": [1], "c": [2]}),
        (3, {"a": [0], "b": [1], "c": [2]}),
        (5, {"a": [0, 3], "b": [1, 4], "c": [2]}),
    ],
)
def test_workers_are_dealt_in_turn(count: int, dealt: dict[str, list[int]]) -> None:
    """Each model has one at least, and each worker a GPU of its own."""
    workers = Models.parse("a,b,c").workers(count)
    assert {name: list(numbers) for name, numbers in workers.items()} == dealt


@pytest.mark.parametrize(
    ("flags", "field", "says"),
    [
        ({"model": "demo,"}, "--model", "must be models with one comma between two, not 'demo,'"),
        ({"model": "a/demo,b/demo"}, "--model", "names two models that clients would both know as 'demo'"),
        ({"model": "demo,x", "workers": 0}, "--workers", "0 paints in the server's own process"),
        ({"model": "demo,x", "predicts": "v"}, "--predicts", "is about one model, and several are served"),
    ],
)
def test_what_cannot_be_served_is_refused_at_the_start(
    flags: dict[str, object], field: str, says: str
) -> None:
    """The sentence names the flag, and comes before anything is loaded."""
    with pytest.raises(RequestError) as refused:
        read_settings(flags)
    assert refused.value.field == field
    assert refused.value.problem.startswith(says)


def test_a_variable_names_several_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers have no flags."""
    monkeypatch.setenv("INPAINT_MODEL", "demo,beach")
    monkeypatch.setenv("INPAINT_WORKERS", "3")
    settings = read_settings({})
    assert settings.models.names == ["demo", "beach"]
    assert {name: list(numbers) for name, numbers in settings.workers_of.items()} == {
        "demo": [0, 2],
        "beach": [1],
    }
