"""Which pictures ``inpaint run`` takes, which masks it finds for them, and where their results would go."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.cli_runs import QUICK, Done, Run

pytest_plugins = ["tests.support.cli_fixtures"]

BLACK, WHITE = 0, 255


@pytest.fixture
def plan(inpaint: Run) -> Run:
    """``inpaint run ARGUMENTS --dry-run --json``: looks, and neither loads a model nor writes anything."""

    def run(*arguments: object, stdin: bytes = b"") -> Done:
        return inpaint("run", *arguments, "-p", "a door", "--dry-run", "--json", stdin=stdin)

    return run


def make(*names: str) -> None:
    """Small pictures of these names; those called masks are white."""
    for name in names:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        is_mask = "mask" in name
        Image.new("L" if is_mask else "RGB", (64, 64), WHITE if is_mask else "grey").save(path)


def taken(done: Done) -> list[str]:
    """The pictures that would be painted."""
    assert done.code == 0, done.err
    return [str(answer["image"]) for answer in done.answers if answer["state"] == "planned"]


def results(done: Done) -> list[str]:
    """Where they would be written."""
    assert done.code == 0, done.err
    return [output for answer in done.answers for output in answer["outputs"]]


def masks(done: Done) -> list[object]:
    """The masks that were found for them."""
    assert done.code == 0, done.err
    return [answer["mask"] for answer in done.answers]


def test_a_folder_is_its_pictures_and_nothing_else_in_it(plan: Run) -> None:
    """A user's folder also holds notes, masks, last night's results, and files of the system."""
    make("p/b.png", "p/a.JPG", "p/c.webp", "p/deep/d.png", "p/.hidden.png")
    make("p/a_mask.png", "p/b_inpainted.png", "p/b_inpainted_2.png", "p/.cache/e.png")
    Path("p/notes.txt").write_text("buy milk")
    Path("p/animation.gif").write_bytes(b"GIF89a")
    make("mask.png")
    done = plan("p", "--mask", "mask.png", "--overwrite")
    assert taken(done) == ["p/a.JPG", "p/b.png", "p/c.webp"]
    assert "skipped 3 of the files found" in done.err


def test_recursive_keeps_the_folders_below_the_output_folder(plan: Run) -> None:
    """Two days' 001.png do not end up as one."""
    make("p/day1/001.png", "p/day2/001.png", "p/top.png", "mask.png")
    done = plan("p", "--recursive", "--mask", "mask.png", "-o", "out/")
    assert results(done) == ["out/day1/001.png", "out/day2/001.png", "out/top.png"]
    assert not Path("out").exists(), "a dry run makes no folder"


def test_masks_and_results_inside_the_searched_folder_are_no_inputs(plan: Run) -> None:
    """The second night must not repaint the first night's results."""
    make("p/a.png", "p/masks/a.png", "p/out/a.png")
    done = plan("p", "-r", "--mask", "p/masks", "-o", "p/out/", "--overwrite")
    assert taken(done) == ["p/a.png"]
    assert taken(plan("p", "-r", "--mask", "p/masks", "-o", "p/out/{stem}.png", "--overwrite")) == ["p/a.png"]
    assert taken(plan("p", "--mask", "p/masks", "-o", ".", "--overwrite")) == ["p/a.png"], "it lies around p"


def test_quoted_globs_are_understood(plan: Run) -> None:
    """On Windows no shell does it, and on Linux ten thousand names do not fit into a command line."""
    make("p/a.jpg", "p/b.png", "p/deep/er/c.jpg", "p/a_inpainted.jpg", "[1].jpg", "mask.png")
    assert taken(plan("p/*.jpg", "--mask", "mask.png", "--overwrite")) == ["p/a.jpg"]
    done = plan("p/**/*.jpg", "--mask", "mask.png", "-o", "out/")
    assert taken(done) == ["p/a.jpg", "p/deep/er/c.jpg"]
    assert results(done) == ["out/a.jpg", "out/deep/er/c.jpg"]
    assert taken(plan(Path("p").resolve() / "[ab].*", "--mask", "mask.png", "--overwrite"))[1].endswith(
        "p/b.png"
    )
    assert taken(plan("[1].jpg", "--mask", "mask.png")) == ["[1].jpg"], "a file of that very name"


def test_stdin_is_a_list_of_paths(plan: Run) -> None:
    """``find … | inpaint run -``: spaces, brackets and DOS line ends; with -print0 and -0 anything."""
    make("a b.png", "[1].png", "x\ny.png", "mask.png")
    listed = b"a b.png\r\n\n[1].png\n"
    assert taken(plan("-", "--mask", "mask.png", stdin=listed)) == ["a b.png", "[1].png"]
    assert taken(plan("-", "-0", "--mask", "mask.png", stdin=b"x\ny.png\0a b.png\0")) == [
        "x\ny.png",
        "a b.png",
    ]
    assert "stdin holds no path" in plan("-", stdin=b"\n").err


def test_an_unquoted_star_does_not_repaint_results_or_masks(plan: Run) -> None:
    """The shell passes them by name; they are left out if their picture is named too, with a message."""
    make("a.png", "a_mask.png", "a_inpainted.png", "a_inpainted_2.png", "b_inpainted.png")
    named = sorted(str(path) for path in Path().glob("*.png"))
    done = plan(*named, "--mask", "a_mask.png", "--overwrite")
    assert taken(done) == ["a.png", "b_inpainted.png"], "b's result was named, and b was not"
    assert "skipped 3" in done.err


def test_a_picture_named_twice_is_painted_once(plan: Run) -> None:
    """A folder and a file of it."""
    make("p/a.png", "p/b.png", "mask.png")
    assert taken(plan("p/b.png", "p", "./p/a.png", "--mask", "mask.png")) == ["p/b.png", "p/a.png"]


NOTHING = {
    "*.jpg": "no picture matches '*.jpg'",
    "empty": "the folder empty holds no PNG, JPEG, WebP, TIFF or AVIF picture",
    "only": "the folder only holds no PNG, JPEG, WebP, TIFF or AVIF picture but masks and earlier results",
    "": "name a picture, a folder or --jobs FILE, for example: inpaint run photo.jpg --mask mask.png "
    "-p 'a red door' (inpaint run --help lists every option)",
}


def test_an_unset_variable_is_not_the_working_folder(plan: Run) -> None:
    """``inpaint run "$PHOTO"`` must not go through everything that is here."""
    make("a.png", "a_mask.png")
    for flags in ([""], ["a.png", "--mask", ""], ["a.png", "-o", ""]):
        done = plan(*flags)
        assert done.code == 2
        assert "the path is empty" in done.err


@pytest.mark.parametrize("argument", NOTHING)
def test_an_argument_that_names_no_picture_is_code_2(argument: str, plan: Run) -> None:
    """A typo in a nightly command must not look like a night without work."""
    make("only/a_mask.png")
    Path("empty").mkdir()
    done = plan(*([argument] if argument else []))
    assert done.code == 2
    assert done.err.splitlines()[-1] == f"error: image: {NOTHING[argument]}"


def test_the_mask_next_to_the_picture_is_found_by_its_name(plan: Run) -> None:
    """No --mask at all, for users who keep photo.jpg and photo_mask.png together."""
    make("p/a.jpg", "p/a_mask.png", "p/b.png", "p/b_mask.WEBP")
    assert masks(plan("p")) == ["p/a_mask.png", "p/b_mask.WEBP"]


def test_extend_alone_looks_for_no_mask(plan: Run) -> None:
    """Widening a picture must not repaint the area of an earlier mask next to it."""
    make("a.png", "a_mask.png")
    assert masks(plan("a.png", "--extend", "0,0,64,0")) == [None]
    assert masks(plan("a.png", "--extend", "0,0,64,0", "--mask", "a_mask.png")) == ["a_mask.png"]


def test_a_folder_of_masks_may_have_the_pictures_folders(plan: Run) -> None:
    """Same name, any format, in the same place below; else in the folder itself."""
    make("p/day1/001.jpg", "p/day2/001.jpg", "p/top.png")
    make("masks/day1/001.png", "masks/001.webp", "masks/top_mask.png")
    found = masks(plan("p", "-r", "--mask", "masks"))
    assert found == ["masks/day1/001.png", "masks/001.webp", "masks/top_mask.png"]


def test_a_picture_is_not_its_own_mask(plan: Run) -> None:
    """Where masks and pictures share a folder and --mask names it."""
    make("p/a.png", "p/a_mask.png")
    assert masks(plan("p", "--mask", "p")) == ["p/a_mask.png"]


TEMPLATES = {
    "masks/{stem}_hole.png": "masks/a_hole.png",
    "masks/{stem}_hole": "masks/a_hole.png",
    "masks/{parent}/{stem}.png": "masks/day1/a.png",
    "{stem}_alpha.png": "day1/a_alpha.png",  # a name without a folder: next to the picture
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_mask_template_is_filled_in(template: str, plan: Run) -> None:
    """Whatever one's masks are called."""
    Path("masks/day1").mkdir(parents=True)
    make("day1/a.jpg")
    Image.new("L", (64, 64), WHITE).save(TEMPLATES[template])
    assert masks(plan("day1/a.jpg", "--mask", template)) == [TEMPLATES[template]]


def test_alpha_is_a_mask(inpaint: Run, checkpoint: Callable[[int], Path], photo: Image.Image) -> None:
    """Erased in an image editor, repainted here: the hole becomes opaque, all else keeps its alpha."""
    alpha = np.full((128, 128), 255, np.uint8)
    alpha[48:80, 48:80] = 0
    alpha[:8] = 200  # half-transparent on purpose, and not to be touched
    picture = photo.copy()
    picture.putalpha(Image.fromarray(alpha))
    picture.save("logo.png")
    done = inpaint("run", "logo.png", "--mask", "alpha", "-p", "x", "--model", checkpoint(9), *QUICK)
    assert done.code == 0, done.err
    before, after = np.asarray(picture), np.asarray(Image.open("logo_inpainted.png"))
    assert (after[48:80, 48:80, 3] == 255).all()
    assert np.array_equal(after[:8], before[:8])
    assert not np.array_equal(after[48:80, 48:80, :3], before[48:80, 48:80, :3])


def test_alpha_without_transparency_says_so(plan: Run) -> None:
    """A JPEG, or a picture in which nothing was erased."""
    make("a.png")
    done = plan("a.png", "--mask", "alpha")
    assert done.code == 2
    assert "error: --mask: nothing in the picture is transparent" in done.err


def test_output_placeholders(plan: Run) -> None:
    """Each once: a picture that is called {seed} is not filled in again."""
    make("day1/{seed}.jpg", "mask.png")
    done = plan(
        "day1/{seed}.jpg", "--mask", "mask.png", "--seed", "7", "-o", "out/{parent}-{stem}-{seed}-{n}.png"
    )
    assert results(done) == ["out/day1-{seed}-7-1.png"]


ODD = {
    "-o out/{name}.png": "output: may hold {stem}, {seed}, {n}, {parent}, not {name}",
    "--mask masks/{seed}.png": "mask: may hold {stem}, {parent}, not {seed}",
    "-o out.png": "output: several pictures would be written to one file; give a folder, or put {stem} into "
    "the name",
    "-o {stem}.gif": "output: must end with .png, .jpg, .jpeg, .webp, .tif, .tiff, .avif, or be a folder, "
    "not 'a.gif'",
}


@pytest.mark.parametrize("flags", ODD)
def test_an_odd_template_gets_one_sentence(flags: str, plan: Run) -> None:
    """Before anything is painted."""
    make("a.png", "b.png", "mask.png")
    done = plan("a.png", "b.png", "--mask", "mask.png", *flags.split())
    assert done.code in (2, 3)
    assert ODD[flags] in done.err
    assert "Traceback" not in done.err


def test_no_two_pictures_become_one_file(plan: Run) -> None:
    """Not even with --overwrite: the second would silently replace the first."""
    make("x/a.png", "y/a.png", "mask.png")
    done = plan("x/a.png", "y/a.png", "--mask", "mask.png", "-o", "out/", "--overwrite")
    assert done.code == 3
    assert (
        "output: out/a.png is already the result of x/a.png; put {stem} or {parent} into the name" in done.err
    )
    assert results(plan("x/a.png", "y/a.png", "--mask", "mask.png", "-o", "out/{parent}_{stem}.png")) == [
        "out/x_a.png",
        "out/y_a.png",
    ]


def test_no_result_replaces_an_input_of_the_run(plan: Run) -> None:
    """Neither its own picture nor another's, by whatever name: a link leads to the same file."""
    make("a.png", "b.png", "mask.png")
    Path("link.png").symlink_to("b.png")
    done = plan("a.png", "b.png", "--mask", "mask.png", "-o", "{n}link.png", "--overwrite")
    assert done.code == 3, "1link.png twice"
    done = plan("a.png", "--mask", "mask.png", "-o", "mask.png", "--overwrite")
    assert "output: mask.png is an input of this run" in done.err
    done = plan("b.png", "--mask", "mask.png", "-o", "link.png", "--overwrite")
    assert "output: link.png is an input of this run" in done.err


def test_a_lora_of_another_content_is_another_setting(plan: Run) -> None:
    """--resume must not take last week's style for this week's because the file has the same name."""
    make("a.png", "mask.png")
    Path("loras").mkdir()
    hashes = []
    for content in ("last week", "this week", "last week"):
        Path("loras/style.safetensors").write_text(content)
        done = plan("a.png", "--mask", "mask.png", "--loras", "loras", "--lora", "style:0.5")
        assert done.code == 0, done.err
        hashes.append(done.answers[0]["settings_hash"])
    assert hashes[0] == hashes[2] != hashes[1]
    assert plan("a.png", "--mask", "mask.png", "--loras", "loras", "--lora", "lost").code == 2


def test_a_name_that_is_too_long_is_found_out_before_painting(plan: Run) -> None:
    """Not after an hour, and not as a bug."""
    make("a.png", "mask.png")
    done = plan("a.png", "--mask", "mask.png", "-o", f"{'x' * 300}.png")
    assert done.code == 1
    assert "cannot be written: File name too long" in done.err
    make(f"{'y' * 250}.png")
    done = plan(f"{'y' * 250}.png", "--extend", "0,0,64,0")
    assert done.code == 1, "its result's name would be too long"
    assert "give --mask PICTURE" in plan(f"{'y' * 250}.png").err
    assert "error: image: " in plan("z" * 5000, "--mask", "mask.png").err


def test_pictures_of_other_formats_in_a_folder_are_counted(
    plan: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phone's folder: they were skipped without a word, and the exit code said that all was well."""
    monkeypatch.setattr("inpaint.images.formats.find_spec", lambda _: None)  # as without the extra heic
    make("p/a.png", "mask.png")
    for name in (
        "IMG_0001.HEIC",
        "b.gif",
        "c.GIF",
        "d.psd",
        "e.cr2",
        "notes.txt",
        "f.mp4",
        ".g.gif",
        "Thumbs.db",
    ):
        Path("p", name).write_bytes(b"x")
    line = "left out 5 pictures of other formats (1 .cr2, 2 .gif, 1 .heic, 1 .psd); HEIC is read after: "
    for argument in ("p", "p/*"):
        done = plan(argument, "--mask", "mask.png", "--overwrite")
        assert taken(done) == ["p/a.png"]
        assert line + "pip install 'sdxl-inpaint[heic]'" in done.err
    Path("p/a.png").unlink()
    assert "it has 5 pictures of other formats" in plan("p", "--mask", "mask.png").err
    Path("q").mkdir()
    Path("q/a.gif").write_bytes(b"x")
    make("q/b.png")
    assert "left out 1 picture of another format (1 .gif)" in plan("q", "--mask", "mask.png").err
    assert "left out" not in plan("q/b.png", "--mask", "mask.png").err


def test_where_results_of_each_format_go(plan: Run) -> None:
    """TIFF stays TIFF; AVIF becomes PNG, which changes no pixel, unless the user names an AVIF."""
    make("p/a.tif", "p/b.TIFF", "p/c.avif", "mask.png")
    assert results(plan("p", "--mask", "mask.png")) == [
        "p/a_inpainted.tif",
        "p/b_inpainted.TIFF",
        "p/c_inpainted.png",
    ]
    assert results(plan("p/c.avif", "--mask", "mask.png", "-o", "out/")) == ["out/c.png"]
    assert results(plan("p/c.avif", "--mask", "mask.png", "-o", "c.avif")) == ["c.avif"]


def test_masks_are_found_in_every_format(plan: Run) -> None:
    """An editor exports masks as TIFF; a site gives AVIF."""
    make("a.png", "b.png")
    Image.new("L", (64, 64), WHITE).save("a_mask.tif")
    Image.new("L", (64, 64), WHITE).save("b_mask.avif")
    assert masks(plan("a.png", "b.png")) == ["a_mask.tif", "b_mask.avif"]
