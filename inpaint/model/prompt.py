"""Text to embeddings: weights such as ``(word:1.3)``, prompts longer than 75 tokens, a cache.

A prompt without brackets and of at most 75 tokens gives exactly what diffusers' ``encode_prompt`` gives.
"""

from dataclasses import dataclass
from typing import Any

import torch

from inpaint.lora.cache import NO_LORAS, LoraSet
from inpaint.lora.hooks import LoraHooks
from inpaint.lora.spec import LoraUse
from inpaint.lru import LruCache
from inpaint.memory import visiting
from inpaint.model.load import Model
from inpaint.prompt_weights import parse_weights

CHUNK_TOKENS = 75  # CLIP's 77 less the start and the end
MAX_CHUNKS = 8
_CACHED_PROMPTS = 64


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
        positive = self.encode(prompt, loras)
        if negative_prompt is None and self._model.force_zeros_for_empty_prompt:
            zeros = torch.zeros_like
            return positive, PromptEmbeds(zeros(positive.hidden), zeros(positive.pooled))
        return positive, self.encode(negative_prompt or "", loras)

    def encode(self, text: str, loras: LoraSet = NO_LORAS) -> PromptEmbeds:
        """Return one prompt's embeddings, from the cache if it was encoded lately with the same LoRAs."""
        # LoRAs are part of the key even if they change no text encoder: ``cross_attention_cache`` knows keys
        # and values by these objects, and with other LoRAs the UNet makes other keys and values.
        key = (loras.uses, text)
        embeds = self._cache.get(key)
        if embeds is None:
            embeds = self._encode(text, loras)
            self._cache.put(key, embeds)
        return embeds

    def _encode(self, text: str, loras: LoraSet) -> PromptEmbeds:
        fragments = parse_weights(text)
        with self._hooks.using([*loras.text(0), *loras.text(1)]):
            sides = [self._encode_side(side, fragments) for side in (0, 1)]
            chunks = max(hidden.shape[0] for hidden, _, _ in sides)
            wide = [self._padded(side, hidden, chunks) for side, (hidden, _, _) in enumerate(sides)]
        _, pooled, dropped = sides[1]
        return PromptEmbeds(torch.cat(wide, dim=-1).flatten(0, 1), pooled, dropped or sides[0][2])

    def _encode_side(
        self, side: int, fragments: list[tuple[str, float]]
    ) -> tuple[torch.Tensor, torch.Tensor, str]:
        """Return (chunks, 77, width), the first chunk's pooled (width,), and the text that did not fit."""
        tokenizer = self._model.tokenizers[side]
        tokens, weights = _tokenize(tokenizer, fragments)
        limit = MAX_CHUNKS * CHUNK_TOKENS
        dropped = tokenizer.decode(tokens[limit:]).strip() if len(tokens) > limit else ""
        ids, scale = _chunked(tokenizer, tokens[:limit], weights[:limit])
        hidden, pooled = self._run(side, ids)
        if any(weight != 1.0 for weight in weights):
            # A weight scales what the word adds to an empty prompt, as in ComfyUI. Scaling the embedding
            # itself, as A1111 does, also scales its large constant part and oversaturates pictures.
            empty, _ = self._run(side, _chunked(tokenizer, [], [])[0])
            hidden = empty + (hidden - empty) * scale.to(hidden)[..., None]
        return hidden, pooled, dropped

    def _run(self, side: int, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the penultimate hidden states (chunks, 77, width) and the first chunk's pooled (width,)."""
        encoder, model = self._model.text_encoders[side], self._model
        with torch.inference_mode(), visiting(encoder, model.device):
            out = encoder(ids.to(model.device), output_hidden_states=True)
        return out.hidden_states[-2], out[0][0]

    def _padded(self, side: int, hidden: torch.Tensor, chunks: int) -> torch.Tensor:
        """Return ``hidden`` with empty chunks added: the two tokenizers may need unequal numbers."""
        if hidden.shape[0] == chunks:
            return hidden
        empty, _ = self._run(side, _chunked(self._model.tokenizers[side], [], [])[0])
        return torch.cat([hidden, empty.expand(chunks - hidden.shape[0], -1, -1)])


def _tokenize(tokenizer: Any, fragments: list[tuple[str, float]]) -> tuple[list[int], list[float]]:
    tokens: list[int] = []
    weights: list[float] = []
    for text, weight in fragments:
        ids = tokenizer(text, add_special_tokens=False, truncation=False, verbose=False).input_ids
        tokens += ids
        weights += [weight] * len(ids)
    return tokens, weights


def _chunked(tokenizer: Any, tokens: list[int], weights: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids (chunks, 77), each chunk with start, end and padding, and the tokens' weights."""
    ids, scale = [], []
    for start in range(0, max(len(tokens), 1), CHUNK_TOKENS):
        chunk = tokens[start : start + CHUNK_TOKENS]
        padding = [tokenizer.pad_token_id] * (CHUNK_TOKENS - len(chunk))
        ids.append([tokenizer.bos_token_id, *chunk, tokenizer.eos_token_id, *padding])
        scale.append([1.0, *weights[start : start + CHUNK_TOKENS], 1.0, *[1.0] * len(padding)])
    return torch.tensor(ids), torch.tensor(scale)
