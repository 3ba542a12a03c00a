from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.generative.beam_search import BeamResult, beam_search, exact_beam_search
from semid.generative.trie import CodeTrie


class TableDecoder:
    """Random log-probabilities that depend on the user and on the whole prefix; float64, often tied."""

    def __init__(self, num_codes: tuple[int, ...], *, seed: int, values: int | None = None) -> None:
        self.num_codes = num_codes
        self.seed = seed
        self.values = values
        self.calls: list[tuple[int, ...]] = []

    def log_probs(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        generator = np.random.default_rng([self.seed, user, len(prefix), *prefix])
        size = self.num_codes[len(prefix)]
        logits = (
            generator.normal(size=size) * 2 if self.values is None else generator.integers(self.values, size=size)
        )
        if self.values is not None:  # exact binary fractions: equal paths tie exactly, whatever the order of sums
            return -logits.astype(np.float64)
        shifted: np.ndarray = logits - np.log(np.exp(logits).sum())
        return shifted

    def first(self, state: Tensor) -> tuple[Tensor, Any]:
        users = [int(u) for u in state[:, 0]]
        table = torch.from_numpy(np.stack([self.log_probs(u, ()) for u in users]))
        return table, [[(u, ())] for u in users]

    def next(self, cache: Any, parents: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
        self.calls.append(tuple(codes.shape))
        beams = [
            [(old[p][0], (*old[p][1], c)) for p, c in zip(ps, cs, strict=True)]
            for old, ps, cs in zip(cache, parents.tolist(), codes.tolist(), strict=True)
        ]
        table = np.stack([np.stack([self.log_probs(u, prefix) for u, prefix in row]) for row in beams])
        return torch.from_numpy(table), beams

    def score(self, user: int, codes: np.ndarray) -> float:
        path = tuple(int(c) for c in codes)
        return float(sum(self.log_probs(user, path[:level])[code] for level, code in enumerate(path)))


def enumerate_all(
    decoder: TableDecoder, ids: SemanticIds, user: int, candidates: list[int], seen: list[int]
) -> list[tuple[float, tuple[int, ...], int]]:
    """Every unseen candidate by brute force: (-score, codes, row), sorted as the search must sort."""
    rows = [r for r in candidates if r not in seen]
    return sorted((-decoder.score(user, ids.codes[r]), tuple(ids.codes[r].tolist()), r) for r in rows)


def states(*users: int) -> Tensor:
    return torch.tensor(users, dtype=torch.float64)[:, None]


@st.composite
def catalogues(draw: st.DrawFn) -> SemanticIds:
    """Random, colliding, skewed and degenerate catalogues of up to four levels."""
    num_codes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    code = st.tuples(*(st.integers(0, k - 1) | st.just(0) for k in num_codes))
    rows = draw(st.lists(code, min_size=1, max_size=24))
    return SemanticIds(np.array(rows, np.int32).reshape(len(rows), len(num_codes)), num_codes)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ids=catalogues())
def test_wide_beam_equals_enumeration(data: st.DataObject, ids: SemanticIds) -> None:
    rows = st.integers(0, ids.num_items - 1)
    candidates = sorted(data.draw(st.sets(rows, min_size=1)))
    users = data.draw(st.integers(1, 3))
    seen = [data.draw(st.lists(rows, max_size=12)) for _ in range(users)]
    k = data.draw(st.integers(1, 30))
    decoder = TableDecoder(
        ids.num_codes, seed=data.draw(st.integers(0, 5)), values=data.draw(st.sampled_from([None, 2]))
    )
    padded = torch.full((users, 12), -1)
    for user, items in enumerate(seen):
        padded[user, : len(items)] = torch.tensor(items, dtype=torch.int64)

    trie = CodeTrie.build(ids, np.array(candidates))
    result = beam_search(decoder, states(*range(users)), trie, beam=30, k=k, seen=padded)

    assert bool(result.exact.all())
    for user in range(users):
        expected = enumerate_all(decoder, ids, user, candidates, seen[user])[:k]
        padding = k - len(expected)
        assert result.items[user].tolist() == [row for _, _, row in expected] + [-1] * padding
        np.testing.assert_allclose(
            result.scores[user].numpy(), [-s for s, _, _ in expected] + [-np.inf] * padding, rtol=0, atol=1e-12
        )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ids=catalogues())
def test_narrow_beam_returns_real_items_and_proves_only_what_is_true(data: st.DataObject, ids: SemanticIds) -> None:
    beam = data.draw(st.integers(1, 6))
    k = data.draw(st.integers(1, beam))
    seen = data.draw(st.lists(st.integers(0, ids.num_items - 1), max_size=10))
    decoder = TableDecoder(
        ids.num_codes, seed=data.draw(st.integers(0, 5)), values=data.draw(st.sampled_from([None, 2]))
    )
    seen_rows = torch.tensor([seen], dtype=torch.int64).reshape(1, -1)
    result = beam_search(decoder, states(7), CodeTrie.build(ids), beam=beam, k=k, seen=seen_rows)

    items, scores = result.items[0].tolist(), result.scores[0].tolist()
    everything = enumerate_all(decoder, ids, 7, list(range(ids.num_items)), seen)
    found = [row for row in items if row >= 0]
    assert items == found + [-1] * (k - len(found))
    assert len(set(found)) == len(found)
    assert not set(found) & set(seen)
    # Every beam that is kept has an unseen item below it, so a short list means that there are no more items.
    assert len(found) == min(k, len(everything))
    np.testing.assert_allclose(scores[: len(found)], [decoder.score(7, ids.codes[r]) for r in found], atol=1e-12)
    assert scores == sorted(scores, reverse=True)
    if bool(result.exact[0]):
        np.testing.assert_allclose(scores[: len(found)], [-s for s, _, _ in everything[:k]], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), ids=catalogues())
def test_exact_search_is_exact_from_any_start(data: st.DataObject, ids: SemanticIds) -> None:
    k = data.draw(st.integers(1, 4))
    decoder = TableDecoder(ids.num_codes, seed=3)
    result = exact_beam_search(decoder, states(0, 1), CodeTrie.build(ids), k=k, beam=1)
    assert bool(result.exact.all())
    for user in range(2):
        expected = enumerate_all(decoder, ids, user, list(range(ids.num_items)), [])[:k]
        np.testing.assert_allclose(
            result.scores[user][: len(expected)].numpy(), [-s for s, _, _ in expected], atol=1e-12
        )


def test_exactness_is_claimed_sometimes_and_never_wrongly() -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(0, 5, (60, 3)).astype(np.int32), (5, 5, 5))
    decoder, trie = TableDecoder(ids.num_codes, seed=0), CodeTrie.build(ids)
    users = range(40)
    truth = [[-s for s, _, _ in enumerate_all(decoder, ids, user, list(range(60)), [])] for user in users]
    claimed = 0
    for beam, k in [(2, 1), (3, 3), (6, 2), (10, 10), (20, 5)]:
        result = beam_search(decoder, states(*users), trie, beam=beam, k=k)
        for user in result.exact.nonzero()[:, 0].tolist():
            np.testing.assert_allclose(result.scores[user].numpy(), truth[user][:k], atol=1e-12)
        claimed += int(result.exact.sum())
    assert 20 < claimed < 180


def test_users_do_not_influence_each_other() -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(0, 6, (80, 3)).astype(np.int32), (6, 6, 6))
    decoder, trie = TableDecoder(ids.num_codes, seed=1), CodeTrie.build(ids)
    seen = torch.tensor([[3, 4, -1], [-1, -1, -1], [70, 70, 9]])
    together = beam_search(decoder, states(0, 1, 2), trie, beam=7, k=5, seen=seen)
    for user in range(3):
        alone = beam_search(decoder, states(user), trie, beam=7, k=5, seen=seen[user : user + 1])
        assert torch.equal(alone.items[0], together.items[user])
        assert torch.equal(alone.scores[0], together.scores[user])
        assert torch.equal(alone.exact[0], together.exact[user])


def test_greedy_beam_is_told_from_exact_by_hand() -> None:
    """Code 0 looks better at first, but its only item is unlikely: a beam of one must say that it cannot know."""

    class TwoStep:
        def first(self, state: Tensor) -> tuple[Tensor, Any]:
            return torch.tensor([[0.6, 0.4]]).log(), None

        def next(self, cache: Any, parents: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
            return torch.tensor([[0.1, 0.9]]).log()[:, None].expand(1, codes.shape[1], 2), None

    trie = CodeTrie.build(SemanticIds(np.array([[0, 0], [1, 1]], np.int32), (2, 2)))
    narrow = beam_search(TwoStep(), states(0), trie, beam=1, k=1)
    assert narrow.items.tolist() == [[0]]
    assert narrow.scores[0, 0].exp().item() == pytest.approx(0.06)
    assert narrow.exact.tolist() == [False]
    wide = beam_search(TwoStep(), states(0), trie, beam=2, k=1)
    assert wide.items.tolist() == [[1]]
    assert wide.scores[0, 0].exp().item() == pytest.approx(0.36)
    assert wide.exact.tolist() == [True]
    assert exact_beam_search(TwoStep(), states(0), trie, beam=1, k=1).items.tolist() == [[1]]


def test_fully_seen_nodes_take_no_place() -> None:
    """The best first code has only seen items; a filter after a beam of one would return nothing."""
    ids = SemanticIds(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32), (2, 2))

    class PrefersZero:
        def first(self, state: Tensor) -> tuple[Tensor, Any]:
            return torch.tensor([[0.99, 0.01]]).log(), None

        def next(self, cache: Any, parents: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
            return torch.full((1, codes.shape[1], 2), 0.5).log(), None

    result = beam_search(PrefersZero(), states(0), CodeTrie.build(ids), beam=1, k=1, seen=torch.tensor([[0, 1]]))
    assert result.items.tolist() == [[2]]


def test_all_items_share_one_code() -> None:
    ids = SemanticIds(np.zeros((500, 2), np.int32), (4, 4))
    result = beam_search(
        TableDecoder(ids.num_codes, seed=0),
        states(0),
        CodeTrie.build(ids),
        beam=8,
        k=8,
        seen=torch.tensor([[0, 3, 3, 7]]),
    )
    assert result.items.tolist() == [[1, 2, 4, 5, 6, 8, 9, 10]]
    assert len(set(result.scores[0].tolist())) == 1


def test_everything_seen_gives_an_empty_exact_list() -> None:
    ids = SemanticIds(np.array([[0], [1]], np.int32), (2,))
    result = beam_search(
        TableDecoder((2,), seed=0), states(0), CodeTrie.build(ids), beam=2, k=2, seen=torch.tensor([[0, 1]])
    )
    assert result.items.tolist() == [[-1, -1]]
    assert result.scores.tolist() == [[-np.inf, -np.inf]]
    assert result.exact.tolist() == [True]


def test_impossible_items_are_not_returned() -> None:
    class Impossible(TableDecoder):
        def log_probs(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
            return np.array([-np.inf, 0.0])

    ids = SemanticIds(np.array([[0, 1], [1, 0], [1, 1]], np.int32), (2, 2))
    result = beam_search(Impossible((2, 2), seed=0), states(0), CodeTrie.build(ids), beam=3, k=3)
    assert result.items.tolist() == [[2, -1, -1]]


def test_nan_below_an_impossible_prefix_is_no_error() -> None:
    """A softmax over nothing but -inf is NaN; the beam that would use it is dead already."""

    class DeadEnd(TableDecoder):
        def log_probs(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
            return np.full(2, np.nan) if prefix[:1] == (0,) else np.array([-np.inf, 0.0])

    ids = SemanticIds(np.array([[0, 1], [1, 0], [1, 1]], np.int32), (2, 2))
    result = beam_search(DeadEnd((2, 2), seed=0), states(0), CodeTrie.build(ids), beam=3, k=2)
    assert result.items.tolist() == [[2, -1]]


def test_width_of_each_level_is_the_smaller_of_beam_and_nodes() -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(0, 4, (200, 3)).astype(np.int32), (4, 4, 4))
    decoder = TableDecoder(ids.num_codes, seed=0)
    beam_search(decoder, states(0, 1), CodeTrie.build(ids), beam=10, k=3)
    assert decoder.calls == [(2, 4), (2, 10)]


def test_no_users() -> None:
    class Nobody:
        def first(self, state: Tensor) -> tuple[Tensor, Any]:
            return torch.zeros(0, 3), None

        def next(self, cache: Any, parents: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
            return torch.zeros(*codes.shape, 3), None

    ids = SemanticIds(np.array([[0, 1], [2, 2]], np.int32), (3, 3))
    result = beam_search(Nobody(), torch.zeros(0, 1), CodeTrie.build(ids), beam=2, k=2)
    assert result.items.shape == (0, 2)


def test_low_precision_decoder_is_summed_in_float32() -> None:
    class Coarse(TableDecoder):
        def first(self, state: Tensor) -> tuple[Tensor, Any]:
            table, cache = super().first(state)
            return table.bfloat16(), cache

        def next(self, cache: Any, parents: Tensor, codes: Tensor) -> tuple[Tensor, Any]:
            table, cache = super().next(cache, parents, codes)
            return table.bfloat16(), cache

    ids = SemanticIds(np.array([[0, 1], [2, 2]], np.int32), (3, 3))
    result = beam_search(Coarse((3, 3), seed=0), states(0), CodeTrie.build(ids), beam=2, k=2)
    decoder = TableDecoder((3, 3), seed=0)
    for item, score in zip(result.items[0].tolist(), result.scores[0].tolist(), strict=True):
        steps = [torch.tensor(decoder.log_probs(0, tuple(ids.codes[item, :level]))).bfloat16() for level in range(2)]
        assert score == sum(float(s[c].float()) for s, c in zip(steps, ids.codes[item], strict=True))


def test_ranking_has_plain_arrays() -> None:
    ranking = BeamResult(
        torch.tensor([[4, -1]]), torch.tensor([[-1.0, -torch.inf]]), torch.tensor([-torch.inf])
    ).ranking()
    assert ranking.items.tolist() == [[4, -1]]
    assert ranking.items.dtype == np.int64
    assert ranking.scores.dtype == np.float32
    assert ranking.exact is not None
    assert ranking.exact.tolist() == [True]


class Broken(TableDecoder):
    """Gives one bad value for one code of the level."""

    def __init__(self, level: int, value: float) -> None:
        super().__init__((3, 3), seed=0)
        self.level, self.value = level, value

    def log_probs(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        table = super().log_probs(user, prefix)
        if len(prefix) == self.level:
            table[2] = self.value
        return table


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_broken_decoder_is_an_error(level: int, value: float) -> None:
    trie = CodeTrie.build(SemanticIds(np.array([[0, 2], [2, 2]], np.int32), (3, 3)))
    with pytest.raises(InputError, match="NaN or a positive log-probability"):
        beam_search(Broken(level, value), states(0), trie, beam=2, k=1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beam": 0, "k": 1}, "must be at least 1"),
        ({"k": 0}, "k must be at least 1"),
        ({"beam": 2, "k": 3}, "beam of 2 cannot find 3"),
        ({"seen": torch.tensor([[5]])}, "item rows 0..1"),
        ({"seen": torch.tensor([[-2]])}, "item rows 0..1"),
        ({"seen": torch.tensor([0])}, "shape"),
        ({"seen": torch.tensor([[0.0]])}, "float32"),
        ({"seen": torch.tensor([[0], [1]])}, "for 2 users"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], words: str) -> None:
    trie = CodeTrie.build(SemanticIds(np.array([[0, 2], [2, 2]], np.int32), (3, 3)))
    with pytest.raises(InputError, match=words):
        beam_search(TableDecoder((3, 3), seed=0), states(0), trie, **{"beam": 2, "k": 1, **changes})


def test_decoder_of_another_tokenizer_is_an_error() -> None:
    trie = CodeTrie.build(SemanticIds(np.array([[0, 2]], np.int32), (3, 4)))
    with pytest.raises(InputError, match="scores 3 codes at level 2"):
        beam_search(TableDecoder((3, 3), seed=0), states(0), trie, beam=1, k=1)
