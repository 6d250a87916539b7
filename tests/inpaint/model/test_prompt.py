"""Prompts: the notation, long texts, weights, the cache; diffusers' encode_prompt is the oracle."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from inpaint import Engine, InpaintRequest
from inpaint.model.load import Model
from inpaint.model.prompt import CHUNK_TOKENS, MAX_CHUNKS, PromptEncoder


@pytest.fixture
def encoder(model: Model) -> PromptEncoder:
    """A fresh encoder on the tiny model."""
    return PromptEncoder(model)


PAIRS = [
    ("a red circle", "blurry"),
    ("a red circle", None),
    ("a red circle", "a red circle"),
    ("word " * 100, ""),
    ("(red:1.5) circle", "word " * 200),
    ("short", "(blurry:0.3) " * 90),
]


@pytest.mark.parametrize(("prompt", "negative"), PAIRS, ids=range(len(PAIRS)))
def test_a_prompt_and_its_negative_share_a_call_and_nothing_else(
    prompt: str, negative: str | None, model: Model
) -> None:
    """A call of a text encoder is mostly launches of small kernels: two prompts in one take half the time."""
    calls = []
    handles = [e.register_forward_hook(lambda *_: calls.append(1)) for e in model.text_encoders]
    try:
        pair = PromptEncoder(model).pair(prompt, negative)
        assert len(calls) == 2, "one of each encoder"
    finally:
        for handle in handles:
            handle.remove()
    texts = [prompt] if negative is None and model.force_zeros_for_empty_prompt else [prompt, negative or ""]
    for both, text in zip(pair, texts, strict=False):
        alone = PromptEncoder(model).encode(text)
        torch.testing.assert_close(both.hidden, alone.hidden, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(both.pooled, alone.pooled, rtol=1e-5, atol=1e-5)
        assert both.dropped == alone.dropped


def test_of_a_pair_only_what_is_new_is_encoded(encoder: PromptEncoder, model: Model) -> None:
    """The negative prompt is the same for hundreds of requests."""
    _, negative = encoder.pair("a red circle", "blurry")
    sizes: list[int] = []
    handle = model.text_encoders[0].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    try:
        assert encoder.pair("a blue star", "blurry")[1] is negative
    finally:
        handle.remove()
    assert sizes == [1]


@pytest.mark.parametrize("text", ["a red circle", "", "Ünïcode ☃ 日本", "x" * 75])
def test_a_plain_prompt_equals_diffusers(text: str, encoder: PromptEncoder, model: Model) -> None:
    """Without brackets nothing of ours is added to what diffusers does."""
    from diffusers import StableDiffusionXLInpaintPipeline as Stock

    pipe = Stock(
        vae=model.vae,
        unet=model.unet,
        scheduler=None,
        text_encoder=model.text_encoders[0],
        text_encoder_2=model.text_encoders[1],
        tokenizer=model.tokenizers[0],
        tokenizer_2=model.tokenizers[1],
        add_watermarker=False,
    )
    hidden, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False)
    ours = encoder.encode(text)
    torch.testing.assert_close(ours.hidden, hidden[0])
    torch.testing.assert_close(ours.pooled, pooled[0])


def test_the_76th_token_counts(encoder: PromptEncoder) -> None:
    """The end of a long prompt is not silently dropped, as it is elsewhere."""
    start = "x" * CHUNK_TOKENS
    assert encoder.encode(start).hidden.shape[0] == 77
    long, other = encoder.encode(start + " red"), encoder.encode(start + " blue")
    assert long.hidden.shape[0] == other.hidden.shape[0] == 2 * 77
    assert torch.equal(long.hidden[:77], encoder.encode(start).hidden)
    assert not torch.allclose(long.hidden[77:], other.hidden[77:])


def test_a_weight_moves_the_embedding_and_one_leaves_it(encoder: PromptEncoder) -> None:
    """(red:1.3) says red louder, (red:1) says it as it is, (red:0) as if the words were missing."""
    plain, same = encoder.encode("red").hidden, encoder.encode("(red:1.0)").hidden
    torch.testing.assert_close(plain, same)
    louder, silent, empty = (encoder.encode(t).hidden for t in ("(red:1.5)", "(red:0)", ""))
    words = slice(1, 4)  # the three letters, between the start and the end
    torch.testing.assert_close(louder[words] - empty[words], 1.5 * (plain[words] - empty[words]))
    torch.testing.assert_close(silent[words], empty[words])


def test_what_did_not_fit_is_said_in_the_result(
    engine: Engine, request_for: Callable[..., InpaintRequest]
) -> None:
    """A caller with an essay for a prompt learns which part was not read."""
    essay = "x" * (CHUNK_TOKENS * MAX_CHUNKS) + " tail"
    assert engine.paint(request_for(prompt="short")).warnings == ()
    (warning,) = engine.paint(request_for(prompt=essay)).warnings
    assert warning.startswith("prompt: only 600 tokens fit")
    assert "tail" in warning
    (warning,) = engine.paint(request_for(negative_prompt=essay)).warnings
    assert warning.startswith("negative_prompt:")


def test_a_prompt_seen_lately_is_not_encoded_again(encoder: PromptEncoder, model: Model) -> None:
    """Variations of one picture pay for their text once."""
    calls = []
    handle = model.text_encoders[0].register_forward_hook(lambda *_: calls.append(1))
    try:
        first = encoder.encode("a red circle")
        assert encoder.encode("a red circle") is first
        assert len(calls) == 1
        for i in range(64):
            encoder.encode(f"other {i}")
        assert encoder.encode("a red circle") is not first, "the cache must not grow without bound"
    finally:
        handle.remove()


def layout(tokenizer: Any, sections: list[str]) -> list[list[int]]:
    """Lay chunks out as A1111's ``tokenize_line`` does, token by token; ``sections`` are split at BREAK."""
    chunks: list[list[int]] = []
    chunk: list[int] = []

    def next_chunk() -> None:
        padding = [tokenizer.pad_token_id] * (CHUNK_TOKENS - len(chunk))
        chunks.append([tokenizer.bos_token_id, *chunk, tokenizer.eos_token_id, *padding])
        chunk.clear()

    for i, section in enumerate(sections):
        if i:
            next_chunk()
        for token in tokenizer(section, add_special_tokens=False).input_ids:
            if len(chunk) == CHUNK_TOKENS:
                next_chunk()
            chunk.append(token)
    if chunk or not chunks:
        next_chunk()
    return chunks


@pytest.mark.parametrize(
    ("text", "sections"),
    [
        ("a red circle", ["a red circle"]),
        ("", [""]),
        ("red BREAK circle", ["red", "circle"]),
        ("red,BREAK,circle", ["red,", ",circle"]),
        ("BREAK", ["", ""]),
        ("red BREAK", ["red", ""]),
        ("BREAK red", ["", "red"]),
        ("red BREAK BREAK circle", ["red", "", "circle"]),
        ("x" * 75 + " BREAK red", ["x" * 75, "red"]),
        ("x" * 76 + " BREAK red", ["x" * 76, "red"]),
        ("x" * 74 + " BREAK " + "y" * 80, ["x" * 74, "y" * 80]),
        ("(red:1.2) BREAK [circle]", ["red", "circle"]),
        ("(red BREAK circle:1.2)", ["red", "circle"]),
        ("red break BREAKFAST", ["red break BREAKFAST"]),
    ],
)
def test_break_lays_chunks_out_as_a1111_does(
    text: str, sections: list[str], encoder: PromptEncoder, model: Model
) -> None:
    """A prompt that someone brings has each of its words in the same chunk, next to the same words."""
    seen: list[torch.Tensor] = []
    handles = [e.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for e in model.text_encoders]
    try:
        chunks = len(encoder.encode(text).hidden) // 77
    finally:
        for handle in handles:
            handle.remove()
    for ids, tokenizer in zip(seen, model.tokenizers, strict=True):
        assert ids[:chunks].tolist() == layout(tokenizer, sections)


def test_of_many_breaks_the_first_chunks_are_read(encoder: PromptEncoder) -> None:
    """Each costs as much as 75 words, so their number has the same limit."""
    embeds = encoder.encode("BREAK ".join(f"w{i} " for i in range(MAX_CHUNKS + 2)))
    assert len(embeds.hidden) == 77 * MAX_CHUNKS
    assert embeds.dropped.replace(" ", "") == f"w{MAX_CHUNKS}w{MAX_CHUNKS + 1}"
    assert encoder.encode("BREAK " * 1_600).hidden.shape[0] == 77 * MAX_CHUNKS
