"""What a prompt says that is not read here is said to the caller, and nothing else is."""

import re
from collections.abc import Callable

import pytest

from inpaint import Engine, InpaintRequest, RequestError
from inpaint.lora.spec import combine
from inpaint.prompt_warnings import HEAVY, prompt_warnings
from inpaint.prompt_weights import check_prompt
from tests.support.cli_runs import Run

pytest_plugins = ["tests.support.cli_fixtures"]

NO_TEXT = ["\ud83d", "\udcf6", "\0"]  # half an emoji, a Latin-1 byte of a command line, a zero byte
# Each with a part of each sentence, in their order.
SAID: dict[str, list[str]] = {
    # Weights from about 3 on.
    "(16:9) photo": ["the weight of '16' is 9;"],
    "clock at (12:30)": ["the weight of '12' is 30;"],
    "(a red circle:30)": ["the weight of 'a red circle' is 30;"],
    "(16:100) a red circle": ["the weight of '16' is 100;"],
    "(red:3)": ["the weight of 'red' is 3;"],
    "((red:2):2)": ["the weight of 'red' is 4;"],
    "(red:-5) (blue:4)": ["the weight of 'red' is -5;"],
    "(" * 12 + "red" + ")" * 12: ["the weight of 'red' is 3.13843;"],
    # Brackets without a partner.
    "a (red:1.3": ["a ( has no partner"],
    "a red) circle": ["a ) has no partner"],
    "a red:1.3) circle": ["a ) has no partner"],
    "red]": ["a ] has no partner"],
    ":-) smile": ["a ) has no partner"],
    "(masterpiece:1.2), (best quality": ["a ( has no partner"],
    "(a]": ["2 brackets, the first a (, have no partner"],
    "((a": ["2 brackets, the first a (,"],
    # A1111's notations.
    "red AND blue": ["'AND' is read as a word"],
    "AND": ["'AND' is read as a word"],
    "red AND blue :1.2 AND x": ["'AND' is read as a word"],
    "[red:blue:0.5] circle": ["[a:b:0.5] is read as words"],
    "[red::0.5] circle": ["[a:b:0.5] is read as words"],
    "[red: 10 ] circle": ["[a:b:0.5] is read as words"],
    "[(red:1.2):[blue]:.5] circle": ["[a:b:0.5] is read as words"],
    "[red|blue] circle": ["[a|b] is read as words"],
    "[red|[blue]|green] circle": ["[a|b] is read as words"],
    "[a|b:0.5]": ["[a:b:0.5] is read", "[a|b] is read"],
    # Tags.
    "<hypernet:x:1> a red circle": ["'<hypernet:x:1>' was left out; of tags, only <lora:NAME:0.8> is read"],
    "<lycoris:x:1> a": ["'<lycoris:x:1>' was left out; of tags"],
    "<ti:x> <wildcard:y:2>": ["'<ti:x>' and 1 more was left out"],
    "a red circle <Lora:nope:1>": ["'<Lora:nope:1>' was left out; write lora in small letters"],
    "<LYCO:x:1>": ["write lora in small letters"],
    "<lora:x:1": ["the tag '<lora:x:1' does not end in >"],
    "a <Lyco:y, b": ["the tag '<Lyco:y,' does not end in >"],
    # Extensions and other programs.
    "{red|blue} __color__": ["the wildcard '__color__'", "the choice '{red|blue}'"],
    "__animals/cats-2__": ["the wildcard '__animals/cats-2__'"],
    "embedding:badhands-v2 x": ["'embedding:badhands-v2' is read as words; textual inversions"],
    "(embedding:easyneg.pt:1.2)": ["'embedding:easyneg.pt' is read as words"],
    "（red:1.3）": ["'（red:1.3）' has no weight"],
}
FOREIGN = ["红色的圆", "（红色）", "красный круг", "a 赤い円と青い空", "دائرة حمراء"]
NOT_SAID = [
    "", "   ", "\n", "a red circle", "((((((a red circle))))))", "red BREAK circle", "BREAK",
    "a red circle BREAK on blue", "(red:1.3:0.5)", "(red:-1)", "(:1.2)", "()", "(red:1e9)", r"\(red\)",
    r"(a\):1.2)", "a (b (c:1.5) d:0.5) e", "16:9 photo", r"\(16:9\)", "(red:2.9)", "[red]", "red|blue",
    "red:0.5", "[at 12:30 sharp]", r"a:0.5\] \[x|y\]", "R&D and brand, ANDROID", "{red}", "<3 you",
    "a < b: c > d", "_x_", "__ __", "embedding", "a red circle 🎉👩‍👩‍👧‍👦", "(:9) x",
    "ein rotes Fenster", "Ünïcødé dvěře",
]  # fmt: skip


@pytest.mark.parametrize(("text", "sentences"), SAID.items(), ids=SAID)
def test_what_is_not_read_is_said(text: str, sentences: list[str]) -> None:
    """A prompt that someone brings from another program does something else here, and they learn what."""
    check_prompt("prompt", text)
    found = prompt_warnings("prompt", text)
    assert [wanted in said for said, wanted in zip(found, sentences, strict=True)] == [True] * len(sentences)
    assert all(said.startswith("prompt: ") for said in found)


@pytest.mark.parametrize("text", NOT_SAID)
def test_what_means_the_same_here_is_not_warned_about(text: str) -> None:
    """A warning that is always there is not read."""
    assert prompt_warnings("prompt", text) == []


@pytest.mark.parametrize("text", FOREIGN)
def test_another_script_is_said_once(text: str) -> None:
    """SDXL's text encoders were trained on English, and what they make of other scripts is near to noise."""
    (said,) = prompt_warnings("prompt", text)
    assert said.endswith("SDXL understands little but English; say it in English")


def test_a_negative_prompt_says_its_own_name() -> None:
    """The user looks into the right field; LoRAs are read in the other one only."""
    assert prompt_warnings("negative_prompt", None) == []
    (said,) = prompt_warnings("negative_prompt", "bad <lora:x:1>")
    assert said == "negative_prompt: '<lora:x:1>' was left out; a LoRA belongs into the prompt"


@pytest.mark.parametrize(
    "text",
    [
        "(a red circle:100000)",
        "(a red circle:" + "9" * 60 + ")",
        "(a red circle:" + "9" * 400 + ")",
        "(" * 1800 + "a red circle" + ")" * 1800,
        "(" * 4990 + "red" + ")" * 4990,
        "a red circle\0",
        "a red \ud83d circle",
        "red, " * 3000,
        "a red circle <lora:nope:0.8:0.6>",
        "a red circle <lora:nope:1:lbw=MIDD>",
        "<lora::1> a red circle",
    ],
)
def test_the_prompts_of_the_report_that_are_refused(
    text: str, request_for: Callable[..., InpaintRequest]
) -> None:
    """They were painted for seconds, and answered as our own fault."""
    with pytest.raises(RequestError, match=r"^prompt: "):
        request_for(prompt=text)


def test_a_tag_of_a_lora_is_taken_out_as_before() -> None:
    """The warning is about other tags."""
    prompt, loras = combine("a red circle <lora:nope:1> <lyco:b:0.5>", None)
    assert [use.name for use in loras] == ["b", "nope"]
    assert prompt_warnings("prompt", prompt) == []


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
@pytest.mark.parametrize("bad", NO_TEXT)
def test_a_request_with_what_is_no_text_is_refused(
    field: str, bad: str, request_for: Callable[..., InpaintRequest]
) -> None:
    """A tokenizer would raise a TypeError, which reads like a fault of ours."""
    with pytest.raises(RequestError, match=rf"^{field}: contains characters that are not text"):
        request_for(**{field: f"a {bad} circle"})


@pytest.mark.parametrize("field", ["scheduler", "area", "fill", "pace", "loras"])
@pytest.mark.parametrize("bad", ["\ud83d", "DDIM\udcf6", "auto\0"])
def test_a_name_with_what_is_no_text_is_refused(
    field: str, bad: str, request_for: Callable[..., InpaintRequest]
) -> None:
    """The same for the names in a request; the sentence can be printed everywhere."""
    with pytest.raises(RequestError, match=rf"^{field}: ") as caught:
        request_for(**{field: bad})
    str(caught.value).encode()


def test_warnings_come_with_the_picture(engine: Engine, request_for: Callable[..., InpaintRequest]) -> None:
    """They travel with every other warning: on stderr, in the answer's metadata, in the file."""
    result = engine.paint(request_for(prompt="(a:9) AND b", negative_prompt="[a|b]"))
    assert [said.partition(";")[0] for said in result.warnings] == [
        f"prompt: the weight of 'a' is {HEAVY * 3:g}",
        "prompt: 'AND' is read as a word",
        "negative_prompt: [a|b] is read as words",
    ]


def test_an_unknown_tag_changes_no_picture(
    engine: Engine, request_for: Callable[..., InpaintRequest]
) -> None:
    """As in A1111: without the extension that knows it, a tag is no words of the prompt."""
    plain, tagged = (
        engine.paint(request_for(prompt=prompt)) for prompt in ("a red circle", "a red circle<hypernet:x:1>")
    )
    assert plain.images[0].tobytes() == tagged.images[0].tobytes()
    assert not plain.warnings
    assert len(tagged.warnings) == 1


def test_the_command_line_prints_them(paint: Run) -> None:
    """A user sees why the picture is not what it was elsewhere."""
    done = paint("-p", "red AND blue", "-o", "out.png")
    assert done.code == 0, done.err
    assert "warning: prompt: 'AND' is read as a word" in done.err


@pytest.mark.parametrize(
    ("option", "field"),
    [("-p", "prompt"), ("--negative-prompt", "negative.prompt"), ("--scheduler", "scheduler")],
)
def test_bytes_of_another_encoding_are_refused_before_the_model_is_loaded(
    option: str, field: str, paint: Run
) -> None:
    """A Latin-1 terminal; a model that is not there shows that it was not looked for."""
    done = paint(option, "M\udcf6we", "--model", "/nowhere", "-o", "out.png")
    assert done.code == 2
    assert re.match(rf"error: (--)?{field}\b", done.err)


def test_a_line_of_a_jobs_file_is_refused_before_the_model_is_loaded(inpaint: Run, photo: object) -> None:
    """Half an emoji in a file that a program wrote; the other lines are painted."""
    line = '{"image": "photo.png", "mask": "mask.png", "prompt": "a \\ud83d circle"}'
    done = inpaint("run", "--jobs", "-", stdin=line.encode())
    assert done.code == 3
    assert "prompt: contains characters that are not text" in done.err
    assert "bug" not in done.err
