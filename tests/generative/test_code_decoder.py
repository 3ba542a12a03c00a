"""Oracles: teacher forcing against step by step, and the whole tree of codes written out."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.generative.beam_search import beam_search
from semid.generative.code_decoder import CodeDecoder
from semid.generative.trie import CodeTrie

WIDTH, SIZES = 16, (3, 4, 2, 5)


def random_decoder(sizes: tuple[int, ...] = SIZES, num_layers: int = 2) -> CodeDecoder:
    torch.manual_seed(len(sizes))
    decoder = CodeDecoder(
        sizes, width=WIDTH, num_heads=4, num_kv_heads=2, hidden=24, num_layers=num_layers, dropout=0.5
    )
    for parameter in decoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    return decoder.eval()


def all_codes(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor(list(product(*(range(size) for size in sizes))))


def log_probabilities(decoder: CodeDecoder, state: Tensor, codes: Tensor) -> list[Tensor]:
    """Per level (P, K_l), by teacher forcing."""
    return [F.log_softmax(logits, dim=-1) for logits in decoder(state, codes)]


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(6,), (3, 4), SIZES])
def test_probabilities_of_all_codes_sum_to_one(sizes: tuple[int, ...]) -> None:
    decoder, state, codes = random_decoder(sizes), torch.randn(3, WIDTH), all_codes(sizes)
    scores = decoder.score(state, codes.expand(3, -1, -1))
    assert scores.shape == (3, len(codes))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    assert scores.std(dim=1).min() > 0.1


@torch.no_grad()
def test_score_is_the_sum_of_the_chosen_log_probabilities() -> None:
    decoder, state, codes = random_decoder(), torch.randn(2, WIDTH), all_codes(SIZES)[[0, 17, 60, 119]]
    scores = decoder.score(state, codes.expand(2, -1, -1))
    for user in range(2):
        for item in range(len(codes)):
            levels = log_probabilities(decoder, state[user : user + 1], codes[item : item + 1])
            total = sum(float(part[0, code]) for part, code in zip(levels, codes[item].tolist(), strict=True))
            assert float(scores[user, item]) == pytest.approx(total, abs=1e-4)


@torch.no_grad()
def test_later_codes_do_not_change_earlier_levels() -> None:
    decoder, state = random_decoder(), torch.randn(1, WIDTH)
    before = decoder(state, torch.tensor([[1, 2, 0, 3]]))
    for level in range(len(SIZES)):
        codes = torch.tensor([[1, 2, 0, 3]])
        codes[0, level] = (codes[0, level] + 1) % SIZES[level]
        after = decoder(state, codes)
        for other in range(len(SIZES)):
            assert torch.allclose(before[other], after[other]) == (other <= level)


@torch.no_grad()
@pytest.mark.parametrize("num_layers", [1, 2])
def test_steps_with_beams_and_parents_equal_teacher_forcing(num_layers: int) -> None:
    decoder, generator = random_decoder(num_layers=num_layers), torch.Generator().manual_seed(1)
    batch = 3
    state = torch.randn(batch, WIDTH)
    log_probs, cache = decoder.first(state)
    torch.testing.assert_close(log_probs, F.log_softmax(decoder(state, torch.zeros(batch, 4).long())[0], dim=-1))
    paths: list[list[list[int]]] = [[[]] for _ in range(batch)]
    for level, beams in enumerate((2, 5, 3), start=1):
        before = len(paths[0])
        parents = torch.randint(before, (batch, beams), generator=generator)
        codes = torch.randint(SIZES[level - 1], (batch, beams), generator=generator)
        paths = [
            [[*paths[user][parents[user, beam]], int(codes[user, beam])] for beam in range(beams)]
            for user in range(batch)
        ]
        log_probs, cache = decoder.next(cache, parents, codes)
        assert log_probs.shape == (batch, beams, SIZES[level])
        for user in range(batch):
            for beam in range(beams):
                forced = torch.tensor([paths[user][beam] + [0] * (4 - level)])
                expected = log_probabilities(decoder, state[user : user + 1], forced)[level][0]
                torch.testing.assert_close(log_probs[user, beam], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_beam_search_scores_are_those_of_teacher_forcing() -> None:
    decoder, state = random_decoder(), torch.randn(4, WIDTH)
    generator = np.random.default_rng(0)
    codes = all_codes(SIZES).numpy()[generator.choice(120, 40, replace=False)].astype(np.int32)
    found = beam_search(decoder, state, CodeTrie.build(SemanticIds(codes, SIZES)), beam=40, k=40)
    scores = decoder.score(state, torch.from_numpy(codes).long().expand(4, -1, -1))
    expected = scores.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.items, expected.indices)
    torch.testing.assert_close(found.scores, expected.values, rtol=1e-4, atol=1e-5)
    assert found.exact.all()


def test_state_and_codes_both_learn() -> None:
    decoder, state = random_decoder(), torch.randn(3, WIDTH, requires_grad=True)
    loss = torch.stack([part.logsumexp(-1).sum() for part in decoder(state, all_codes(SIZES)[:3])]).sum()
    loss.backward()
    assert state.grad is not None
    assert state.grad.abs().min() > 0
    assert all(parameter.grad is not None for parameter in decoder.parameters())
