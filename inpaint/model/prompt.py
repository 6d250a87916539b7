"""Text to embeddings: weights such as ``(word:1.3)``, chunks of 75 tokens, ``BREAK``, a cache.

A prompt without brackets and of at most 75 tokens gives exactly what diffusers' ``encode_prompt`` gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from inpaint.lora.cache import NO_LORAS, LoraSet
from inpaint.lora.hooks import LoraHooks
from inpaint.lora.spec import LoraUse
from inpaint.lru import LruCache
from inpaint.memory import visiting
from inpaint.model.load import Model
from inpaint.prompt_weights import Fragment, parse_prompt

CHUNK_TOKENS = 75  # CLIP's 77 less the start and the end
MAX_CHUNKS = 8
_CACHED_PROMPTS = 64
_Chunk = list[tuple[int, float]]  # at most 75 tokens and their weights


@dataclass(frozen=True, slots=True, eq=False)
class PromptEmbeds:
    """The embeddings of one prompt, as the UNet takes them."""

    hidden: torch.Tensor  # (77 × chunks, width of both encoders together)
    pooled: torch.Tensor  # (projection width of the second encoder,)
    dropped: str = ""  # the end of the text that did not fit


class PromptEncoder:
    """Both text encoders of a model behind one LRU cache; used by the engine's thread only."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._hooks = LoraHooks(model.device, model.dtype)
        self._cache: LruCache[tuple[tuple[LoraUse, ...], str], PromptEmbeds] = LruCache(_CACHED_PROMPTS)

    def pair(
        self, prompt: str, negative_prompt: str | None, loras: LoraSet = NO_LORAS
    ) -> tuple[PromptEmbeds, PromptEmbeds]:
        """Return the embeddings of a prompt and of its negative, from text encoders with ``loras``.

        ``None`` and ``""`` differ if the checkpoint says so, by diffusers' ``force_zeros_for_empty_prompt``:
        then no negative prompt is all zeros, and an empty one is the encoded empty string.
        """
        if negative_prompt is None and self._model.force_zeros_for_empty_prompt:
            (positive,) = self._encode([prompt], loras)
            zeros = torch.zeros_like
            return positive, PromptEmbeds(zeros(positive.hidden), zeros(positive.pooled))
        positive, negative = self._encode([prompt, negative_prompt or ""], loras)
        return positive, negative

    def encode(self, text: str, loras: LoraSet = NO_LORAS) -> PromptEmbeds:
        """Return one prompt's embeddings, from the cache if it was encoded lately with the same LoRAs."""
        (embeds,) = self._encode([text], loras)
        return embeds

    def _encode(self, texts: Sequence[str], loras: LoraSet) -> list[PromptEmbeds]:
        """Return the embeddings of each text; those not cached share one call of each encoder."""
        # LoRAs are part of the key even if they change no text encoder: ``cross_attention_cache`` knows keys
        # and values by these objects, and with other LoRAs the UNet makes other keys and values.
        found = {text: self._cache.get((loras.uses, text)) for text in texts}
        missing = [text for text, embeds in found.items() if embeds is None]
        if missing:
            for text, made in zip(missing, self._encode_together(missing, loras), strict=True):
                found[text] = made
                self._cache.put((loras.uses, text), made)
        return [embeds for text in texts if (embeds := found[text]) is not None]

    def _encode_together(self, texts: Sequence[str], loras: LoraSet) -> list[PromptEmbeds]:
        sections = [parse_prompt(text).sections for text in texts]
        tokens = [[_Tokens.of(tokenizer, each) for each in sections] for tokenizer in self._model.tokenizers]
        chunks = [max(len(side[i].ids) for side in tokens) for i in range(len(texts))]
        with self._hooks.using([*loras.text(0), *loras.text(1)]):
            sides = [self._encode_side(side, tokens[side], chunks) for side in (0, 1)]
        return [
            PromptEmbeds(
                torch.cat([hidden for hidden, _ in parts], dim=-1).flatten(0, 1),
                parts[1][1],
                tokens[1][i].dropped or tokens[0][i].dropped,
            )
            for i, parts in enumerate(zip(*sides, strict=True))
        ]

    def _encode_side(
        self, side: int, texts: Sequence["_Tokens"], chunks: Sequence[int]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return (chunks, 77, width) and the first chunk's pooled (width,) of each text, from one call.

        A text with fewer chunks than asked for gets empty ones: the two tokenizers may need unequal numbers.
        """
        lengths = [len(text.ids) for text in texts]
        needs_empty = any(
            text.weighted or n < wanted for text, n, wanted in zip(texts, lengths, chunks, strict=True)
        )
        empty = [_padded(self._model.tokenizers[side], [[]])[0]] if needs_empty else []
        all_hidden, all_pooled = self._run(side, torch.cat([*(text.ids for text in texts), *empty]))
        found, first = [], 0
        for text, n, wanted in zip(texts, lengths, chunks, strict=True):
            hidden, none = all_hidden[first : first + n], all_hidden[-1:]
            if text.weighted:
                # A weight scales what the word adds to an empty prompt, as in ComfyUI. Scaling the embedding
                # itself, as A1111 does, also scales its large constant part and oversaturates pictures.
                hidden = none + (hidden - none) * text.scale.to(hidden)[..., None]
            found.append((torch.cat([hidden, none.expand(wanted - n, -1, -1)]), all_pooled[first]))
            first += n
        return found

    def _run(self, side: int, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return penultimate hidden states (chunks, 77, width), and each chunk's pooled (chunks, width)."""
        encoder, model = self._model.text_encoders[side], self._model
        with torch.inference_mode(), visiting(encoder, model.device):
            out = encoder(ids.to(model.device), output_hidden_states=True)
        return out.hidden_states[-2], out[0]


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """One text as one tokenizer sees it."""

    ids: torch.Tensor  # (chunks, 77)
    scale: torch.Tensor  # (chunks, 77), the words' weights
    weighted: bool  # a weight is not 1
    dropped: str  # the end of the text that did not fit

    @classmethod
    def of(cls, tokenizer: Any, sections: list[list[Fragment]]) -> "_Tokens":
        """Tokenize the fragments of a text between its ``BREAK``s."""
        chunks = _chunks(tokenizer, sections)
        kept, rest = chunks[:MAX_CHUNKS], chunks[MAX_CHUNKS:]
        dropped = tokenizer.decode([token for chunk in rest for token, _ in chunk]).strip() if rest else ""
        ids, scale = _padded(tokenizer, kept)
        return cls(ids, scale, any(weight != 1.0 for chunk in kept for _, weight in chunk), dropped)


def _chunks(tokenizer: Any, sections: list[list[Fragment]]) -> list[_Chunk]:
    """Return a text's chunks of at most 75 tokens, at least one.

    ``BREAK`` ends a chunk, even an empty one; after the last ``BREAK`` there need be nothing. Source:
    ``tokenize_line`` in ``modules/sd_hijack_clip.py`` of AUTOMATIC1111/stable-diffusion-webui.
    """
    chunks: list[_Chunk] = []
    for section in sections:
        tokens = _tokenize(tokenizer, section)
        starts = range(0, max(len(tokens), 1), CHUNK_TOKENS)
        chunks += [tokens[start : start + CHUNK_TOKENS] for start in starts]
    return chunks[:-1] if len(chunks) > 1 and not chunks[-1] else chunks


def _tokenize(tokenizer: Any, fragments: list[Fragment]) -> _Chunk:
    tokens: _Chunk = []
    for text, weight in fragments:
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        tokens += [(token, weight) for token in ids]
    return tokens


def _padded(tokenizer: Any, chunks: list[_Chunk]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids (chunks, 77), each chunk with start, end and padding, and the tokens' weights."""
    ids, scale = [], []
    for chunk in chunks:
        missing = CHUNK_TOKENS - len(chunk)
        tokens, weights = [token for token, _ in chunk], [weight for _, weight in chunk]
        padding = [tokenizer.pad_token_id] * missing
        ids.append([tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id, *padding])
        scale.append([1.0, *weights, 1.0, *[1.0] * missing])
    return torch.tensor(ids), torch.tensor(scale)
