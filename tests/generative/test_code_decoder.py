"""Oracles: teacher forcing against step by step, and the whole tree of codes written out."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.generative.beam_search import beam_search
from semid.generative.children import Children
from semid.generative.code_decoder import CodeDecoder, CodeTree
from semid.generative.code_search import CodeSearch
from semid.generative.item_filter import ItemFilter
from semid.generative.item_scores import score_items
from semid.generative.trie import CodeTrie

WIDTH, SIZES = 16, (3, 4, 2, 5)


def random_decoder(sizes: tuple[int, ...] = SIZES, num_layers: int = 2, norm: str = "valid") -> CodeDecoder:
    torch.manual_seed(len(sizes))
    decoder = CodeDecoder(
        sizes, width=WIDTH, num_heads=4, num_kv_heads=2, hidden=24, num_layers=num_layers, dropout=0.5, norm=norm
    )
    for parameter in decoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    return decoder.eval()


def all_codes(sizes: tuple[int, ...]) -> Tensor:
    return torch.tensor(list(product(*(range(size) for size in sizes))))


def some_items(count: int = 40) -> SemanticIds:
    rows = np.random.default_rng(0).choice(120, count, replace=False)
    return SemanticIds(all_codes(SIZES).numpy()[rows].astype(np.int32), SIZES)


def tree_of(ids: SemanticIds, *, vectors: bool) -> CodeTree:
    """With the mean of random item vectors under each node, if asked for."""
    trie = CodeTrie.build(ids)
    return CodeTree(trie, trie.mean_vectors(item_vectors(ids.num_items)) if vectors else None)


def item_vectors(count: int) -> Tensor:
    return F.normalize(torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(7)), dim=-1)


def full_tree(sizes: tuple[int, ...] = SIZES) -> CodeTree:
    """Every code exists and nothing is known of the items: the plain decoder."""
    return CodeTree(CodeTrie.build(SemanticIds(all_codes(sizes).numpy().astype(np.int32), sizes)))


def scores_of_all(decoder: CodeDecoder, state: Tensor, tree: CodeTree) -> Tensor:
    """log p (users, N) of every item."""
    items = torch.arange(tree.trie.num_items).expand(len(state), -1)
    return score_items(CodeSearch(decoder, tree), state, tree.trie, items)


def log_probabilities(build: Any, decoder: CodeDecoder, state: Tensor, codes: Tensor, tree: CodeTree) -> list[Tensor]:
    """Per level (P, K_l), by teacher forcing."""
    return [F.log_softmax(logits, dim=-1) for logits in build.code_logits(decoder, state, codes, tree)]


@torch.no_grad()
@pytest.mark.parametrize("sizes", [(6,), (3, 4), SIZES])
def test_probabilities_of_all_codes_sum_to_one(sizes: tuple[int, ...]) -> None:
    decoder, state, tree = random_decoder(sizes), torch.randn(3, WIDTH), full_tree(sizes)
    scores = scores_of_all(decoder, state, tree)
    assert scores.shape == (3, len(all_codes(sizes)))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))
    assert scores.std(dim=1).min() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("vectors", [False, True])
def test_probabilities_of_the_items_sum_to_one(vectors: bool) -> None:
    """Nothing is left for codes that no item has."""
    decoder, state, ids = random_decoder(), torch.randn(3, WIDTH), some_items()
    scores = scores_of_all(decoder, state, tree_of(ids, vectors=vectors))
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3))


@torch.no_grad()
@pytest.mark.parametrize("vectors", [False, True])
def test_items_of_equal_codes_count_once(vectors: bool) -> None:
    """Each has the probability of the code they share, wherever it is looked up."""
    decoder, state, ids = random_decoder(), torch.randn(3, WIDTH), some_items()
    doubled = SemanticIds(np.concatenate([ids.codes, ids.codes[:10]]), SIZES)
    tree = tree_of(doubled, vectors=vectors)
    scores = scores_of_all(decoder, state, tree)
    torch.testing.assert_close(scores[:, :40].exp().sum(1), torch.ones(3))
    torch.testing.assert_close(scores[:, 40:], scores[:, :10])
    found = beam_search(CodeSearch(decoder, tree), state, tree.trie, beam=50, k=50)
    torch.testing.assert_close(found.scores, scores.sort(dim=1, descending=True).values)


@torch.no_grad()
def test_logits_are_the_plain_ones_plus_the_cosine_of_state_and_mean_item(build: Any) -> None:
    """Worked out item by item, for the codes that some item goes on with; -inf for all others."""
    decoder, ids = random_decoder(), some_items()
    state, codes, vectors = torch.randn(40, WIDTH), torch.from_numpy(ids.codes).long(), item_vectors(40)
    plain = build.code_logits(decoder, state, codes, full_tree())
    without, with_vectors = (build.code_logits(decoder, state, codes, tree_of(ids, vectors=v)) for v in (False, True))
    for level in range(4):
        for row in range(40):
            family = (ids.codes[:, :level] == ids.codes[row, :level]).all(axis=1)
            for code in range(SIZES[level]):
                members = torch.from_numpy(family & (ids.codes[:, level] == code))
                expected = torch.tensor(-torch.inf)
                compared = torch.tensor(-torch.inf)
                if members.any():
                    expected = plain[level][row, code]
                    similarity = F.normalize(state[row], dim=0) @ vectors[members].mean(0)
                    compared = expected + decoder.heads.node_scale[level] * similarity
                torch.testing.assert_close(without[level][row, code], expected)
                torch.testing.assert_close(with_vectors[level][row, code], compared, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("vectors", [False, True])
def test_normed_over_all_codes_those_of_no_item_have_the_plain_logits(build: Any, vectors: bool) -> None:
    decoder, full, ids, state = random_decoder(), random_decoder(norm="full"), some_items(12), torch.randn(12, WIDTH)
    codes, tree = torch.from_numpy(ids.codes).long(), tree_of(ids, vectors=vectors)
    valid, plain = (build.code_logits(decoder, state, codes, of) for of in (tree, full_tree()))
    for level, logits in enumerate(build.code_logits(full, state, codes, tree)):
        expected = torch.where(valid[level].isfinite(), valid[level], plain[level])
        assert level == 0 or not valid[level].isfinite().all()
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    scores = scores_of_all(full, state, tree)
    assert (scores.exp().sum(1) < 0.99).all()
    levels = log_probabilities(build, full, state, codes, tree)
    total = sum(part.gather(1, codes[:, level, None])[:, 0] for level, part in enumerate(levels))
    torch.testing.assert_close(scores.diagonal(), total, rtol=1e-4, atol=1e-5)
    found = beam_search(CodeSearch(full, tree), state, tree.trie, beam=12, k=12)
    torch.testing.assert_close(found.scores, scores.sort(dim=1, descending=True).values)


@torch.no_grad()
@pytest.mark.parametrize("vectors", [False, True])
def test_score_is_the_sum_of_the_chosen_log_probabilities(build: Any, vectors: bool) -> None:
    decoder, ids, state = random_decoder(), some_items(), torch.randn(2, WIDTH)
    tree, codes = tree_of(ids, vectors=vectors), torch.from_numpy(ids.codes[:6]).long()
    scores = scores_of_all(decoder, state, tree)
    for user, item in product(range(2), range(6)):
        levels = log_probabilities(build, decoder, state[user : user + 1], codes[item : item + 1], tree)
        total = sum(float(part[0, code]) for part, code in zip(levels, codes[item].tolist(), strict=True))
        assert float(scores[user, item]) == pytest.approx(total, abs=1e-4)


@torch.no_grad()
def test_prefixes_that_items_share_are_gone_through_once() -> None:
    widths = []

    class Counting(CodeSearch):
        def next(self, cache: Any, parents: Tensor, nodes: Tensor) -> Any:
            widths.append(nodes.shape[1])
            assert (nodes.diff(dim=1) >= 0).all()
            return super().next(cache, parents, nodes)

    decoder, ids, state = random_decoder(), some_items(), torch.randn(2, WIDTH)
    tree = tree_of(ids, vectors=True)
    items = torch.tensor([[4, 9, 4, 30, 2, 2], [39, 39, 39, 39, 39, 39]])
    scores = score_items(Counting(decoder, tree), state, tree.trie, items)
    torch.testing.assert_close(scores, scores_of_all(decoder, state, tree).gather(1, items))
    prefixes = [len(np.unique(ids.codes[items[0], :level], axis=0)) for level in (1, 2, 3)]
    assert widths == prefixes


@torch.no_grad()
def test_later_codes_do_not_change_earlier_levels(build: Any) -> None:
    decoder, state = random_decoder(), torch.randn(1, WIDTH)
    before = build.code_logits(decoder, state, torch.tensor([[1, 2, 0, 3]]), full_tree())
    for level in range(len(SIZES)):
        codes = torch.tensor([[1, 2, 0, 3]])
        codes[0, level] = (codes[0, level] + 1) % SIZES[level]
        after = build.code_logits(decoder, state, codes, full_tree())
        for other in range(len(SIZES)):
            assert torch.allclose(before[other], after[other]) == (other <= level)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["valid", "full"])
@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("vectors", [False, True])
def test_steps_with_beams_and_parents_equal_teacher_forcing(
    build: Any, num_layers: int, vectors: bool, norm: str
) -> None:
    decoder, ids = random_decoder(num_layers=num_layers, norm=norm), some_items()
    tree = tree_of(ids, vectors=vectors)
    search, generator, batch = CodeSearch(decoder, tree), np.random.default_rng(1), 3
    state = torch.randn(batch, WIDTH)
    log_probs, cache = search.first(state)
    expected = log_probabilities(build, decoder, state, torch.zeros(batch, 4).long(), tree)[0]
    torch.testing.assert_close(log_probs, expected, rtol=1e-4, atol=1e-5)
    prefixes: list[list[tuple[int, ...]]] = [[()] for _ in range(batch)]
    for level, beams in enumerate((2, 5, 3), start=1):
        parents = torch.from_numpy(generator.integers(len(prefixes[0]), size=(batch, beams)))
        nodes = torch.zeros(batch, beams, dtype=torch.int64)
        before, prefixes = prefixes, [[] for _ in range(batch)]
        for user, beam in product(range(batch), range(beams)):
            prefix = before[user][parents[user, beam]]
            family = ids.codes[(ids.codes[:, : level - 1] == prefix).all(axis=1)]
            prefixes[user].append((*prefix, int(generator.choice(family[:, level - 1]))))
            for depth, code in enumerate(prefixes[user][-1]):
                nodes[user, beam] = tree.trie.step(depth, nodes[user, beam], torch.tensor(code))
        cache = search.next(cache, parents, nodes)
        children = Children.of(tree.trie, level, nodes)
        along = search.child_log_probs(cache, slice(0, batch), children)
        rows = None if tree.trie.table(level) is None else search.log_probs(cache)
        for user, beam in product(range(batch), range(beams)):
            forced = torch.tensor([[*prefixes[user][beam], *[0] * (4 - level)]])
            expected = log_probabilities(build, decoder, state[user : user + 1], forced, tree)[level][0]
            here = (children.row == user * beams + beam) & children.there
            codes = children.codes[here]
            assert norm == "full" or expected.isfinite().sum() == here.sum()
            torch.testing.assert_close(along[here], expected[codes], rtol=1e-4, atol=1e-5)
            if rows is not None:
                expected[torch.isin(torch.arange(SIZES[level]), codes, invert=True)] = -torch.inf
                torch.testing.assert_close(rows[user * beams + beam], expected, rtol=1e-4, atol=1e-5)
    assert rows is not None


@torch.no_grad()
@pytest.mark.parametrize("vectors", [False, True])
def test_beam_search_scores_are_those_of_teacher_forcing(vectors: bool) -> None:
    """Probabilities are normalised over the whole catalogue while only some of it are candidates."""
    decoder, state, ids = random_decoder(), torch.randn(4, WIDTH), some_items()
    tree, candidates = tree_of(ids, vectors=vectors), torch.arange(0, 40, 2)
    allowed = ItemFilter.of(tree.trie, torch.arange(40) % 2 == 0)
    found = beam_search(CodeSearch(decoder, tree), state, tree.trie, beam=20, k=20, allowed=allowed)
    expected = scores_of_all(decoder, state, tree)[:, candidates].sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.items, candidates[expected.indices])
    torch.testing.assert_close(found.scores, expected.values, rtol=1e-4, atol=1e-5)
    assert found.exact.all()


@pytest.mark.parametrize("norm", ["valid", "full"])
@pytest.mark.parametrize("vectors", [False, True])
@pytest.mark.parametrize("sizes", [(6,), SIZES])
def test_the_loss_and_its_slope_are_those_of_the_logits(
    build: Any, sizes: tuple[int, ...], vectors: bool, norm: str
) -> None:
    decoder = random_decoder(sizes, norm=norm)
    ids = some_items() if sizes == SIZES else SemanticIds(np.array([[0], [2], [5]], np.int32), sizes)
    tree, codes = tree_of(ids, vectors=vectors), torch.from_numpy(ids.codes).long()
    state = torch.randn(len(codes), WIDTH, requires_grad=True)
    loss = decoder(state, codes, tree)
    logits = build.code_logits(decoder, state, codes, tree)
    expected = torch.stack([F.cross_entropy(part, codes[:, level]) for level, part in enumerate(logits)]).sum()
    torch.testing.assert_close(loss, expected)
    inputs = [state, *decoder.parameters()]
    slopes, wanted = (torch.autograd.grad(of, inputs, allow_unused=True) for of in (loss, expected))
    for mine, other in zip(slopes, wanted, strict=True):
        assert (mine is None) == (other is None)
        if mine is not None:
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_everything_learns_and_nothing_becomes_nan() -> None:
    decoder, ids, state = random_decoder(), some_items(), torch.randn(40, WIDTH, requires_grad=True)
    codes = torch.from_numpy(ids.codes).long()
    decoder(state, codes, tree_of(ids, vectors=True)).backward()
    assert state.grad is not None
    assert state.grad.isfinite().all()
    assert state.grad.abs().min() > 0
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name
