"""Constrained beam search as others do it: transformers' ``generate``, the same with one prefill, and STATIC."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Search = Callable[[Tensor], Any]
Prefixes = dict[tuple[int, ...], list[int]]


def prefixes_of(codes: np.ndarray, sizes: Sequence[int]) -> Prefixes:
    """A trie in a dictionary: the tokens that continue every prefix of tokens. Level l begins at token 1 + Σ K."""
    tokens = codes + 1 + np.concatenate([[0], np.cumsum(sizes[:-1])])
    following: dict[tuple[int, ...], set[int]] = {}
    for row in tokens.tolist():
        for level, token in enumerate(row):
            following.setdefault(tuple(row[:level]), set()).add(token)
    return {prefix: sorted(after) for prefix, after in following.items()}


def gpt2(sizes: Sequence[int], width: int, layers: int, heads: int, context: int) -> Any:
    """Random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=1 + sum(sizes),
        n_positions=context + len(sizes),
        n_embd=width,
        n_layer=layers,
        n_head=heads,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def t5(sizes: Sequence[int], width: int, layers: int, heads: int) -> Any:
    """Random weights, as many layers on either side."""
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=1 + sum(sizes),
        d_model=width,
        d_kv=width // heads,
        d_ff=4 * width,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=heads,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=None,
    )
    return T5ForConditionalGeneration(config).eval()


def generating(model: Any, prefixes: Prefixes, levels: int, beam: int) -> Search:
    """``generate`` with ``prefix_allowed_tokens_fn``: histories (B, T) of tokens → (B · W, …) tokens."""
    is_decoder = not model.config.is_encoder_decoder

    def search(histories: Tensor) -> Any:
        start = histories.shape[1] if is_decoder else 1

        def allowed(_: int, tokens: Tensor) -> list[int]:
            return prefixes[tuple(tokens[start:].tolist())]

        return model.generate(
            histories,
            attention_mask=torch.ones_like(histories),
            max_new_tokens=levels,
            num_beams=beam,
            num_return_sequences=beam,
            do_sample=False,
            prefix_allowed_tokens_fn=allowed,
        )

    return search


def prefilled(model: Any, prefixes: Prefixes, sizes: Sequence[int], beam: int) -> Search:
    """GPT-2 by hand: the history is read once for all beams, whose caches are then copies of it."""
    from transformers import DynamicCache

    @torch.inference_mode()
    def search(histories: Tensor) -> Tensor:
        users, cache = len(histories), DynamicCache()
        out = model(histories, past_key_values=cache, use_cache=True, logits_to_keep=1)
        scores = F.log_softmax(out.logits[:, -1].float(), -1)
        scores, tokens = (scores + _mask(scores, [()] * users, prefixes)).topk(beam, 1)
        paths = tokens[..., None]
        cache.batch_repeat_interleave(beam)
        for _ in sizes[1:]:
            out = model(paths[..., -1].reshape(-1, 1), past_key_values=cache, use_cache=True)
            steps = F.log_softmax(out.logits[:, -1].float(), -1)
            steps = steps + _mask(steps, [tuple(path) for path in paths.flatten(0, 1).tolist()], prefixes)
            total = (scores[..., None] + steps.view(users, beam, -1)).flatten(1)
            scores, places = total.topk(beam, 1)
            parents, tokens = places // steps.shape[-1], places % steps.shape[-1]
            rows = (parents + torch.arange(users)[:, None] * beam).flatten()
            cache.reorder_cache(rows)
            paths = torch.cat([paths.flatten(0, 1)[rows].view(users, beam, -1), tokens[..., None]], -1)
        return paths

    return search


def _mask(scores: Tensor, paths: list[tuple[int, ...]], prefixes: Prefixes) -> Tensor:
    mask = torch.full_like(scores, -torch.inf)
    for row, path in enumerate(paths):
        mask[row, prefixes.get(path, [])] = 0.0
    return mask


class Static:
    """STATIC's index and search (youtube/static-constraint-decoding), two dense levels.

    Args:
        codes: (N, L).
        size: K.
    """

    def __init__(self, codes: np.ndarray, size: int) -> None:
        from static_decoding.csr_utils import build_static_index

        index = build_static_index(codes[np.lexsort(codes.T[::-1])], size, 2)
        packed, pointers, self.branches, start, mask, states = index
        self.levels, self.size = codes.shape[1], size
        self.packed, self.pointers = (
            torch.from_numpy(np.asarray(packed)),
            torch.from_numpy(np.asarray(pointers)).long(),
        )
        self.start, self.mask, self.states = (torch.from_numpy(np.asarray(part)) for part in (start, mask, states))

    def search(self, logits: list[Tensor], beam: int) -> Tensor:
        """Its whole harness, given the logits of every step: (B, K) and then (B · W, K)."""
        from static_decoding.decoding_pt import sparse_transition_torch

        steps = iter(logits)
        result: Tensor = sparse_transition_torch(
            lambda _: next(steps)[:, None],
            len(logits[0]),
            beam,
            beam,
            0,
            self.levels,
            self.size,
            self.branches,
            self.packed,
            self.pointers,
            self.start,
            self.mask,
            self.states,
            torch.device("cpu"),
            2,
        )
        return result

    def dense_step(self, log_probs: Tensor, scores: Tensor, first: Tensor) -> Tensor:
        """Second level as in the harness: best scores (B, W) after beams (B, W) at first codes."""
        parents = first.flatten()
        log_probs = torch.where(self.mask[parents], log_probs, torch.tensor(-torch.inf))
        best, tokens = log_probs.topk(scores.shape[1], -1)
        states = self.states[parents[:, None], tokens]
        return self._merged(scores, best, tokens, states)

    def sparse_step(self, log_probs: Tensor, scores: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Third level as in the harness, by its kernel, after beams (B, W) at two codes each."""
        from static_decoding.decoding_pt import generate_and_apply_logprobs_mask

        states = self.states[first.flatten(), second.flatten()]
        found = generate_and_apply_logprobs_mask(
            log_probs, states, self.packed, self.pointers, self.branches[2], self.size, torch.device("cpu")
        )
        return self._merged(scores, *found)

    @staticmethod
    def _merged(scores: Tensor, steps: Tensor, tokens: Tensor, states: Tensor) -> Tensor:
        total = (scores[..., None] + steps.view(*scores.shape, -1)).flatten(1)
        best, places = total.topk(scores.shape[1], -1)
        tokens.reshape(len(scores), -1).gather(1, places)
        states.reshape(len(scores), -1).gather(1, places)
        return best
