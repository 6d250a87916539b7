"""Braces in paths: of placeholders, and of names that exist."""

from pathlib import Path

import pytest

from inpaint.cli.run.inputs import Found
from inpaint.cli.run.masks import MaskChoice
from inpaint.cli.run.outputs import Output
from inpaint.errors import RequestError
from tests.support.cli_runs import Run

pytest_plugins = ["tests.support.cli_fixtures"]

PICTURE = Found(Path("pictures/a.png"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working folder, with files and folders whose names have braces."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "dir {x}/m.png", "{1}name.jpg", "{GUID}/{A-B}/m.png", "{stem}.png", "{{two}}.png", "a{b.png",
        "plain/m.png",
        "masks {x}/a_mask.png",
    ):  # fmt: skip
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


MASKS = {
    "dir {x}/m.png": "dir {x}/m.png",
    "./dir {x}/m.png": "dir {x}/m.png",
    "dir {x}//m.png": "dir {x}/m.png",
    "{1}name.jpg": "{1}name.jpg",
    "{GUID}/{A-B}/m.png": "{GUID}/{A-B}/m.png",
    "{stem}.png": "{stem}.png",
    "{{two}}.png": "{{two}}.png",
    "a{b.png": "a{b.png",
    "dir {{x}}/m.png": "dir {x}/m.png",
    "lost {{x}}.png": "lost {x}.png",
    "dir {x}/{stem}.png": "dir {x}/a.png",
    "dir {x}/{{stem}}.png": "dir {x}/{stem}.png",
    "{GUID}/{A-B}/{parent}_{stem}.png": "{GUID}/{A-B}/pictures_a.png",
    "plain/{stem}.png": "plain/a.png",
    "plain/m.png": "plain/m.png",
    "masks {x}": "masks {x}/a_mask.png",
    "masks {x}/": "masks {x}/a_mask.png",
    "masks {x}/{stem}_mask": "masks {x}/a_mask.png",
    "{stem}_m.png": "pictures/a_m.png",
}


@pytest.mark.parametrize("absolute", [False, True], ids=["relative", "absolute"])
@pytest.mark.parametrize("text", MASKS)
def test_a_mask_that_exists_as_written_is_that_file(text: str, absolute: bool, place: Path) -> None:
    """``{1}name.jpg`` is a file of a camera, ``C:\\\\Users\\\\{GUID}`` a folder of Windows."""
    root = place if absolute and text != "{stem}_m.png" else Path()
    given = str(root / text) if "//" not in text else text
    found = MaskChoice(given).of(PICTURE)
    assert found is not None
    assert found.resolve() == (place / MASKS[text]).resolve()


OUTPUTS = {
    "dir {x}/out.png": "dir {x}/out.png",
    "dir {x}/{stem}_{seed}.png": "dir {x}/a_7.png",
    "dir {x}": "dir {x}/a.png",
    "dir {x}/": "dir {x}/a.png",
    "{GUID}/{A-B}/new/{stem}.png": "{GUID}/{A-B}/new/a.png",
    "new {{x}}/out.png": "new {x}/out.png",
    "new {{x}}": "new {x}/a.png",
    "{{{stem}}}.png": "{a}.png",
    "{parent}/{stem}.png": "pictures/a.png",
    "{stem}.png": "{stem}.png",
}


@pytest.mark.parametrize("text", OUTPUTS)
def test_an_output_folder_that_exists_as_written_is_that_folder(text: str, place: Path) -> None:
    """The rest of the path may hold placeholders."""
    assert Output(text, several=False).paths(PICTURE, [7]) == [Path(OUTPUTS[text])]


def test_samples_are_numbered_where_only_a_folder_has_braces(place: Path) -> None:
    """A brace in a folder's name is no placeholder that would tell the samples apart."""
    paths = Output("dir {n}/out.png", several=False).paths(PICTURE, [7, 8])
    assert paths == [Path("dir 1/out.png"), Path("dir 2/out.png")]
    (place / "dir {n}").mkdir()
    paths = Output("dir {n}/out.png", several=False).paths(PICTURE, [7, 8])
    assert paths == [Path("dir {n}/out_1.png"), Path("dir {n}/out_2.png")]
    with pytest.raises(RequestError, match="several pictures would be written to one file"):
        Output("dir {n}/out.png", several=True)


@pytest.mark.parametrize("text", ["new {x}/m.png", "plain/{x}.png", "dir {x}/{y}.png", "{}/m.png"])
@pytest.mark.parametrize(
    "made", [MaskChoice, lambda text: Output(text, several=False)], ids=["mask", "output"]
)
def test_an_unknown_placeholder_is_explained(made: type[MaskChoice], text: str, place: Path) -> None:
    """The error lists the placeholders and says how to write a brace."""
    with pytest.raises(
        RequestError, match=r"may hold \{stem\}, .*not \{.*for a name with braces, write \{\{"
    ):
        made(text)


def test_a_run_with_braces_everywhere(paint: Run) -> None:
    """A mask and a result in a folder ``dir {x}``."""
    assert paint("--dry-run").code == 0
    Path("dir {x}").mkdir()
    Path("dir {x}/m.png").write_bytes(Path("mask.png").read_bytes())
    done = paint("-o", "dir {x}/out.png", "--json", mask="dir {x}/m.png")
    assert done.code == 0, done.err
    assert done.answers[0]["outputs"] == ["dir {x}/out.png"]
    assert done.answers[0]["mask"] == "dir {x}/m.png"
    assert Path("dir {x}/out.png").is_file()
