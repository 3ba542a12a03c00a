from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from semid.codes import SemanticIds
from semid.errors import InputError
from semid.generative.beam_search import BeamResult, beam_search, exact_beam_search
from semid.generative.children import Children
from semid.generative.item_filter import ItemFilter
from semid.generative.trie import CodeTrie

TWO = SemanticIds(np.array([[0, 2], [2, 2]], np.int32), (3, 3))


class TableDecoder:
    """Random log-probabilities that depend on the user and on the whole prefix; float64, often tied."""

    def __init__(self, trie: CodeTrie, *, seed: int, values: int | None = None) -> None:
        self.trie, self.num_codes = trie, trie.num_codes
        self.seed = seed
        self.values = values
        self.calls: list[tuple[int, ...]] = []

    def log_probs_of(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
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
        table = torch.from_numpy(np.stack([self.log_probs_of(u, ()) for u in users]))
        return table, [[(u, ())] for u in users]

    def next(self, cache: Any, parents: Tensor, nodes: Tensor) -> Any:
        self.calls.append(tuple(nodes.shape))
        codes = self.trie.levels[len(cache[0][0][1])].codes[nodes]
        return [
            [(old[p][0], (*old[p][1], c)) for p, c in zip(ps, cs, strict=True)]
            for old, ps, cs in zip(cache, parents.tolist(), codes.tolist(), strict=True)
        ]

    def log_probs(self, cache: Any) -> Tensor:
        beams = [beam for row in cache for beam in row]
        depth = len(beams[0][1])
        rows = torch.from_numpy(np.stack([self.log_probs_of(*beam) for beam in beams]))
        nodes = [self.node(prefix) for _, prefix in beams]
        edges = self.trie.edges(depth, torch.tensor(nodes))
        exists = torch.zeros_like(rows, dtype=torch.bool)
        exists[edges.owner, self.trie.levels[depth].codes[edges.children].long()] = True
        return rows.masked_fill(~exists, -torch.inf)

    def node(self, prefix: tuple[int, ...]) -> int:
        node = torch.zeros(1, dtype=torch.int64)
        for depth, code in enumerate(prefix):
            node = self.trie.step(depth, node, torch.tensor([code]))
        return int(node)

    def child_log_probs(self, cache: Any, users: slice, children: Children) -> Tensor:
        rows = np.stack([[self.log_probs_of(*beam) for beam in row] for row in cache[users]])
        return torch.from_numpy(rows).flatten(1).gather(1, children.owner * rows.shape[2] + children.codes)

    def logits(self, cache: Any) -> None:
        return None

    def score(self, user: int, codes: np.ndarray) -> float:
        path = tuple(int(c) for c in codes)
        return float(sum(self.log_probs_of(user, path[:level])[code] for level, code in enumerate(path)))


def enumerate_all(
    decoder: TableDecoder, ids: SemanticIds, user: int, candidates: list[int], seen: list[int]
) -> list[tuple[float, tuple[int, ...], int]]:
    """Every unseen candidate by brute force: (-score, codes, row), sorted as the search must sort."""
    rows = [r for r in candidates if r not in seen]
    return sorted((-decoder.score(user, ids.codes[r]), tuple(ids.codes[r].tolist()), r) for r in rows)


FORMS = ("rows", "children", "static")


def decoder_of(
    ids: SemanticIds, form: str, *, seed: int, values: int | None = None, kind: type[TableDecoder] = TableDecoder
) -> TableDecoder:
    """Of a trie that is searched by whole codebooks where it can, among children alone, or so in fixed shapes."""
    trie = CodeTrie.build(ids)
    if form == "children":
        trie.__dict__["_tables"] = (None,) * len(trie.levels)
    return kind(trie, seed=seed, values=values)


def search_as(form: str, decoder: TableDecoder, state: Tensor, **settings: Any) -> BeamResult:
    with pytest.MonkeyPatch.context() as patch:
        if form == "static":
            patch.setattr("semid.generative.beam_steps._LOOKED_INTO", ())
        return beam_search(decoder, state, decoder.trie, **settings)


def only(trie: CodeTrie, *sets: list[int]) -> ItemFilter:
    masks = torch.zeros(len(sets), trie.num_items, dtype=torch.bool)
    for mask, rows in zip(masks, sets, strict=True):
        mask[rows] = True
    return ItemFilter.of(trie, masks)


def states(*users: int) -> Tensor:
    return torch.tensor(users, dtype=torch.float64)[:, None]


@st.composite
def catalogues(draw: st.DrawFn) -> SemanticIds:
    """Random, colliding, skewed and degenerate catalogues of up to four levels."""
    num_codes = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    code = st.tuples(*(st.integers(0, k - 1) | st.just(0) for k in num_codes))
    rows = draw(st.lists(code, min_size=1, max_size=24))
    return SemanticIds(np.array(rows, np.int32).reshape(len(rows), len(num_codes)), num_codes)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), ids=catalogues(), form=st.sampled_from(FORMS))
def test_wide_beam_equals_enumeration(data: st.DataObject, ids: SemanticIds, form: str) -> None:
    rows = st.integers(0, ids.num_items - 1)
    users = data.draw(st.integers(1, 3))
    filters = [sorted(data.draw(st.sets(rows))) for _ in range(data.draw(st.integers(1, 2)))]
    which = data.draw(st.lists(st.integers(0, len(filters) - 1), min_size=users, max_size=users))
    seen = [data.draw(st.lists(rows, max_size=12)) for _ in range(users)]
    k = data.draw(st.integers(1, 30))
    values = data.draw(st.sampled_from([None, 2]))
    decoder = decoder_of(ids, form, seed=data.draw(st.integers(0, 5)), values=values)
    trie = decoder.trie
    padded = torch.full((users, 12), -1)
    for user, items in enumerate(seen):
        padded[user, : len(items)] = torch.tensor(items, dtype=torch.int64)

    result = search_as(
        form,
        decoder,
        states(*range(users)),
        beam=30,
        k=k,
        allowed=only(trie, *filters),
        which=torch.tensor(which),
        seen=padded,
    )

    assert bool(result.exact.all())
    for user in range(users):
        expected = enumerate_all(decoder, ids, user, filters[which[user]], seen[user])[:k]
        padding = k - len(expected)
        assert result.items[user].tolist() == [row for _, _, row in expected] + [-1] * padding
        np.testing.assert_allclose(
            result.scores[user].numpy(), [-s for s, _, _ in expected] + [-np.inf] * padding, rtol=0, atol=1e-12
        )


@settings(max_examples=150, deadline=None)
@given(data=st.data(), ids=catalogues(), form=st.sampled_from(FORMS))
def test_narrow_beam_returns_real_items_and_proves_only_what_is_true(
    data: st.DataObject, ids: SemanticIds, form: str
) -> None:
    beam = data.draw(st.integers(1, 6))
    k = data.draw(st.integers(1, beam))
    seen = data.draw(st.lists(st.integers(0, ids.num_items - 1), max_size=10))
    allowed = sorted(data.draw(st.sets(st.integers(0, ids.num_items - 1), min_size=1)))
    values = data.draw(st.sampled_from([None, 2]))
    decoder = decoder_of(ids, form, seed=data.draw(st.integers(0, 5)), values=values)
    trie = decoder.trie
    seen_rows = torch.tensor([seen], dtype=torch.int64).reshape(1, -1)
    result = search_as(form, decoder, states(7), beam=beam, k=k, seen=seen_rows, allowed=only(trie, allowed))

    items, scores = result.items[0].tolist(), result.scores[0].tolist()
    everything = enumerate_all(decoder, ids, 7, allowed, seen)
    found = [row for row in items if row >= 0]
    assert items == found + [-1] * (k - len(found))
    assert len(set(found)) == len(found)
    assert set(found) <= set(allowed) - set(seen)
    # Every beam that is kept has an allowed, unseen item below it: a short list means that there are no more.
    assert len(found) == min(k, len(everything))
    np.testing.assert_allclose(scores[: len(found)], [decoder.score(7, ids.codes[r]) for r in found], atol=1e-12)
    assert scores == sorted(scores, reverse=True)
    if bool(result.exact[0]):
        np.testing.assert_allclose(scores[: len(found)], [-s for s, _, _ in everything[:k]], atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(ids=catalogues(), beam=st.integers(1, 8))
def test_all_forms_find_the_same(ids: SemanticIds, beam: int) -> None:
    found = []
    for form in FORMS:
        decoder = decoder_of(ids, form, seed=1, values=3)
        result = search_as(form, decoder, states(0, 1, 2), beam=beam, k=beam)
        found.append((result.items.tolist(), result.scores.tolist(), result.bound.tolist()))
    assert found[0] == found[1] == found[2]


def test_users_are_taken_some_at_a_time_where_children_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(0, 6, (80, 3)).astype(np.int32), (6, 6, 6))
    decoder = decoder_of(ids, "children", seed=1)
    whole = beam_search(decoder, states(0, 1, 2, 3, 4), decoder.trie, beam=7, k=5)
    monkeypatch.setattr("semid.generative.beam_steps.MOST_PLACES", 60)
    parts = beam_search(decoder, states(0, 1, 2, 3, 4), decoder.trie, beam=7, k=5)
    assert torch.equal(parts.items, whole.items)
    assert torch.equal(parts.bound, whole.bound)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), ids=catalogues())
def test_exact_search_is_exact_from_any_start(data: st.DataObject, ids: SemanticIds) -> None:
    k = data.draw(st.integers(1, 4))
    trie = CodeTrie.build(ids)
    decoder = TableDecoder(trie, seed=3)
    result = exact_beam_search(decoder, states(0, 1), trie, k=k, beam=1)
    assert bool(result.exact.all())
    for user in range(2):
        expected = enumerate_all(decoder, ids, user, list(range(ids.num_items)), [])[:k]
        np.testing.assert_allclose(
            result.scores[user][: len(expected)].numpy(), [-s for s, _, _ in expected], atol=1e-12
        )


def test_exactness_is_claimed_sometimes_and_never_wrongly() -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(0, 5, (60, 3)).astype(np.int32), (5, 5, 5))
    trie = CodeTrie.build(ids)
    decoder = TableDecoder(trie, seed=0)
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
    trie = CodeTrie.build(ids)
    decoder = TableDecoder(trie, seed=1)
    seen = torch.tensor([[3, 4, -1], [-1, -1, -1], [70, 70, 9]])
    together = beam_search(decoder, states(0, 1, 2), trie, beam=7, k=5, seen=seen)
    for user in range(3):
        alone = beam_search(decoder, states(user), trie, beam=7, k=5, seen=seen[user : user + 1])
        assert torch.equal(alone.items[0], together.items[user])
        assert torch.equal(alone.scores[0], together.scores[user])
        assert torch.equal(alone.exact[0], together.exact[user])


class Fixed(TableDecoder):
    """The probabilities given, by prefix."""

    def __init__(self, codes: list[list[int]], tables: dict[tuple[int, ...], list[float]]) -> None:
        sizes = tuple(len(next(row for prefix, row in tables.items() if len(prefix) == depth)) for depth in range(2))
        super().__init__(CodeTrie.build(SemanticIds(np.array(codes, np.int32), sizes)), seed=0)
        self.tables = tables

    def log_probs_of(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        with np.errstate(divide="ignore"):
            return np.log(self.tables[prefix])


def test_greedy_beam_is_told_from_exact_by_hand() -> None:
    """Code 0 looks better at first, but its only item is unlikely: a beam of one must say that it cannot know."""
    two_step = Fixed([[0, 0], [1, 1]], {(): [0.6, 0.4], (0,): [0.1, 0.9], (1,): [0.1, 0.9]})
    narrow = beam_search(two_step, states(0), two_step.trie, beam=1, k=1)
    assert narrow.items.tolist() == [[0]]
    assert narrow.scores[0, 0].exp().item() == pytest.approx(0.06)
    assert narrow.exact.tolist() == [False]
    wide = beam_search(two_step, states(0), two_step.trie, beam=2, k=1)
    assert wide.items.tolist() == [[1]]
    assert wide.scores[0, 0].exp().item() == pytest.approx(0.36)
    assert wide.exact.tolist() == [True]
    assert exact_beam_search(two_step, states(0), two_step.trie, beam=1, k=1).items.tolist() == [[1]]


class Trap(TableDecoder):
    """Prefixes that begin well have many children, all alike; the worst one of each level has a single child."""

    def log_probs_of(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        size = self.num_codes[len(prefix)]
        if not prefix:
            return np.log(np.linspace(2, 1, size) / np.linspace(2, 1, size).sum())
        if prefix[-1] == self.num_codes[len(prefix) - 1] - 1:
            return np.where(np.arange(size) == size - 1, 0.0, -np.inf)
        return np.full(size, -np.log(size))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("levels", [2, 3])
def test_where_every_narrow_beam_fails_it_says_so_and_the_exact_one_does_not(form: str, levels: int) -> None:
    """The best item is under the least likely first code, which only a beam as wide as the level keeps."""
    size, last = 8, [7] * levels
    every = np.stack(np.meshgrid(*[np.arange(size)] * levels, indexing="ij"), -1).reshape(-1, levels)
    codes = np.array([row for row in every.tolist() if row[0] < size - 1] + [last], np.int32)
    decoder = decoder_of(SemanticIds(codes, (size,) * levels), form, seed=0, kind=Trap)
    best = len(codes) - 1
    for beam in range(1, size):
        found = search_as(form, decoder, states(0), beam=beam, k=1)
        assert found.items.tolist() != [[best]]
        assert found.exact.tolist() == [False]
    for found in (
        search_as(form, decoder, states(0), beam=size, k=1),
        exact_beam_search(decoder, states(0), decoder.trie, beam=1, k=1),
    ):
        assert found.items.tolist() == [[best]]
        assert found.exact.tolist() == [True]


@pytest.mark.parametrize("how", ["seen", "filtered"])
def test_nodes_without_items_left_take_no_place(how: str) -> None:
    """The best first code has no item left; a filter after a beam of one would return nothing."""
    even = [0.5, 0.5]
    decoder = Fixed([[0, 0], [0, 1], [1, 0], [1, 1]], {(): [0.99, 0.01], (0,): even, (1,): even})
    limits = {"seen": torch.tensor([[0, 1]])} if how == "seen" else {"allowed": only(decoder.trie, [2, 3])}
    result = beam_search(decoder, states(0), decoder.trie, beam=1, k=1, **limits)
    assert result.items.tolist() == [[2]]


def test_all_items_share_one_code() -> None:
    trie = CodeTrie.build(SemanticIds(np.zeros((500, 2), np.int32), (4, 4)))
    result = beam_search(TableDecoder(trie, seed=0), states(0), trie, beam=8, k=8, seen=torch.tensor([[0, 3, 3, 7]]))
    assert result.items.tolist() == [[1, 2, 4, 5, 6, 8, 9, 10]]
    assert len(set(result.scores[0].tolist())) == 1


@pytest.mark.parametrize("how", ["seen", "filtered"])
def test_nothing_left_gives_an_empty_exact_list(how: str) -> None:
    trie = CodeTrie.build(SemanticIds(np.array([[0], [1]], np.int32), (2,)))
    limits = {"seen": torch.tensor([[0, 1]])} if how == "seen" else {"allowed": only(trie, [])}
    result = beam_search(TableDecoder(trie, seed=0), states(0), trie, beam=2, k=2, **limits)
    assert result.items.tolist() == [[-1, -1]]
    assert result.scores.tolist() == [[-np.inf, -np.inf]]
    assert result.exact.tolist() == [True]


def test_impossible_items_are_not_returned() -> None:
    decoder = Fixed([[0, 1], [1, 0], [1, 1]], {(): [0, 1], (0,): [0, 1], (1,): [0, 1]})
    result = beam_search(decoder, states(0), decoder.trie, beam=3, k=3)
    assert result.items.tolist() == [[2, -1, -1]]


def test_nan_below_an_impossible_prefix_is_no_error() -> None:
    """A softmax over nothing but -inf is NaN; the beam that would use it is dead already."""
    decoder = Fixed([[0, 1], [1, 0], [1, 1]], {(): [0, 1], (0,): [np.nan, np.nan], (1,): [0, 1]})
    result = beam_search(decoder, states(0), decoder.trie, beam=3, k=2)
    assert result.items.tolist() == [[2, -1]]


def test_width_of_each_level_is_the_smaller_of_beam_and_nodes() -> None:
    ids = SemanticIds(np.random.default_rng(0).integers(0, 4, (200, 3)).astype(np.int32), (4, 4, 4))
    decoder = TableDecoder(CodeTrie.build(ids), seed=0)
    beam_search(decoder, states(0, 1), decoder.trie, beam=10, k=3)
    assert decoder.calls == [(2, 4), (2, 10)]


def test_no_users() -> None:
    trie = CodeTrie.build(TWO)
    result = beam_search(TableDecoder(trie, seed=0), torch.zeros(0, 1), trie, beam=2, k=2)
    assert (result.items.shape, result.scores.shape, result.exact.shape) == ((0, 2), (0, 2), (0,))


@pytest.mark.parametrize("form", ["rows", "children"])
def test_low_precision_decoder_is_summed_in_float32(form: str) -> None:
    class Coarse(TableDecoder):
        def first(self, state: Tensor) -> tuple[Tensor, Any]:
            table, cache = super().first(state)
            return table.bfloat16(), cache

        def log_probs(self, cache: Any) -> Tensor:
            return super().log_probs(cache).bfloat16()

        def child_log_probs(self, cache: Any, users: slice, children: Children) -> Tensor:
            return super().child_log_probs(cache, users, children).bfloat16()

    ids = SemanticIds(np.array([[0, 1], [2, 2]], np.int32), (3, 3))
    decoder = decoder_of(ids, form, seed=0, kind=Coarse)
    result = beam_search(decoder, states(0), decoder.trie, beam=2, k=2)
    for item, score in zip(result.items[0].tolist(), result.scores[0].tolist(), strict=True):
        steps = [torch.tensor(decoder.log_probs_of(0, tuple(ids.codes[item, :level]))).bfloat16() for level in (0, 1)]
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

    level, value = 0, 0.0

    def log_probs_of(self, user: int, prefix: tuple[int, ...]) -> np.ndarray:
        table = super().log_probs_of(user, prefix)
        if len(prefix) == self.level:
            table[2] = self.value
        return table


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3.0])
def test_broken_decoder_is_an_error(level: int, value: float, form: str) -> None:
    decoder = decoder_of(TWO, form, seed=0, kind=type("OfLevel", (Broken,), {"level": level, "value": value}))
    with pytest.raises(InputError, match="NaN or a positive log-probability"):
        search_as(form, decoder, states(0), beam=2, k=1)


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
        ({"allowed": only(CodeTrie.build(TWO), [0])}, "of another catalogue"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], words: str) -> None:
    trie = CodeTrie.build(TWO)
    with pytest.raises(InputError, match=words):
        beam_search(TableDecoder(trie, seed=0), states(0), trie, **{"beam": 2, "k": 1, **changes})


def test_decoder_of_another_tokenizer_is_an_error() -> None:
    class Wider(TableDecoder):
        def log_probs(self, cache: Any) -> Tensor:
            return F.pad(super().log_probs(cache), (0, 1))

    trie = CodeTrie.build(SemanticIds(np.array([[0, 2]], np.int32), (3, 3)))
    with pytest.raises(InputError, match="scores 4 codes at level 2"):
        beam_search(Wider(trie, seed=0), states(0), trie, beam=1, k=1)
