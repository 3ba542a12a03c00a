"""Children in a buffer whose shape never changes: in torch, in the kernel, in a graph, and where nothing shows."""

import importlib.util
import os
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from semid.codes import SemanticIds
from semid.data.dataset import Dataset
from semid.data.plain_queries import queries_from_histories
from semid.generative.beam_search import _last_beams, beam_search
from semid.generative.beam_steps import Beams, StepLogits
from semid.generative.catalogue import Catalogue
from semid.generative.children import Children
from semid.generative.code_decoder import CodeDecoder, CodeTree
from semid.generative.code_search import CodeSearch
from semid.generative.graphed_search import Inputs, SearchGraphs
from semid.generative.item_filter import Allowed, ItemFilter
from semid.generative.recommender import GenerativeRecommender
from semid.generative.trie import CodeTrie, TrieLevel

SIZES, WIDTH, ITEMS = (7, 12, 40), 16, 600
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the kernel needs Triton, which is not installed"
)


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU the kernel runs in Triton's interpreter; this must be known before the kernel is defined."""
    if DEVICE == "cpu":
        monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")


def search_of(*, vectors: bool, norm: str = "valid", repeated: bool = False) -> CodeSearch:
    torch.manual_seed(0)
    decoder = CodeDecoder(
        SIZES, width=WIDTH, num_heads=4, num_kv_heads=2, hidden=24, num_layers=1, dropout=0.0, norm=norm
    )
    for parameter in decoder.parameters():
        parameter.data = torch.randn(parameter.shape) * 0.5
    generator = np.random.default_rng(1)
    codes = generator.integers(0, SIZES, (ITEMS, 3)).astype(np.int32)
    codes = np.concatenate([codes, codes[:200]]) if repeated else np.unique(codes, axis=0)
    trie = CodeTrie.build(SemanticIds(codes, SIZES))
    means = trie.mean_vectors(torch.randn(len(codes), WIDTH)) if vectors else None
    return CodeSearch(decoder.eval(), CodeTree(trie, means))


@pytest.mark.parametrize("dense", [0, 32], ids=["vectors by place", "vectors by node"])
@pytest.mark.parametrize(
    ("vectors", "norm", "repeated"),
    [
        (False, "valid", False),
        (True, "valid", False),
        (True, "valid", True),
        (False, "full", False),
        (True, "full", True),
    ],
)
def test_fixed_shapes_give_the_same_lists(
    monkeypatch: pytest.MonkeyPatch, vectors: bool, norm: str, repeated: bool, dense: int
) -> None:
    """With filters, seen items and beams that die out."""
    monkeypatch.setattr("semid.generative.edges.DENSE", dense)
    state, generator = torch.randn(5, WIDTH), torch.Generator().manual_seed(0)
    found = []
    search = search_of(vectors=vectors, norm=norm, repeated=repeated)
    trie = search.tree.trie
    masks = torch.rand(2, trie.num_items, generator=generator) < torch.tensor([[0.5], [0.01]])
    seen = torch.randint(-1, trie.num_items, (5, 30), generator=generator)
    which, allowed = torch.tensor([0, 1, 0, 1, 0]), ItemFilter.of(trie, masks)
    for looked_into in (("cpu",), ()):
        monkeypatch.setattr("semid.generative.beam_steps._LOOKED_INTO", looked_into)
        monkeypatch.setattr("semid.selection._LOOKED_INTO", looked_into)
        found += [
            beam_search(search, state, trie, beam=9, k=6),
            beam_search(search, state, trie, beam=20, k=20, allowed=allowed, which=which, seen=seen),
        ]
    for ours, other in zip(found[:2], found[2:], strict=True):
        assert torch.equal(ours.items, other.items)
        torch.testing.assert_close(ours.scores, other.scores, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours.bound, other.bound, rtol=1e-5, atol=1e-5)
    assert (found[1].items < 0).any()
    assert (found[1].items >= 0).any()


def test_the_buffer_holds_the_largest_families_of_a_skewed_catalogue() -> None:
    """Half of the items are under one code, and the beam is on all large families at once."""
    codes = np.unique(np.random.default_rng(0).zipf(1.3, (5000, 3)) % SIZES, axis=0).astype(np.int32)
    trie = CodeTrie.build(SemanticIds(codes, SIZES))
    counts = trie.levels[1].children.diff()
    largest = counts.topk(4).indices.sort().values[None]
    children = Children.of(trie, 2, largest, size=trie.most_children(1, 4))
    assert children.size == int(counts.topk(4).values.sum()) == int(children.ends[0, -1])
    first, end = trie.levels[1].children[largest[0]], trie.levels[1].children[largest[0] + 1]
    every = [(owner, node) for owner in range(4) for node in range(int(first[owner]), int(end[owner]))]
    assert list(zip(children.owner[0].tolist(), children.nodes[0].tolist(), strict=True)) == every
    values = torch.randn(1, children.size)
    by_hand = [values[0, children.owner[0] == owner].logsumexp(0) for owner in range(4)]
    torch.testing.assert_close(children.log_sum_exp(values)[0], torch.stack(by_hand))


def on_meta(search: CodeSearch, beam: int) -> CodeSearch:
    """The same where no value can be looked at; only how many children nodes have is known, as of any trie in use."""
    trie = search.tree.trie
    levels = tuple(TrieLevel(level.codes.to("meta"), level.children.to("meta")) for level in trie.levels)
    blind = CodeTrie(levels, trie.items.to("meta"), trie.num_codes, trie.is_unique)
    for depth in range(len(levels) - 1):
        width = min(beam, len(trie.levels[0])) if depth == 0 else beam
        blind._most[depth, width] = trie.most_children(depth, width)
    assert search.tree.vectors is not None
    vectors = tuple(part.to("meta") for part in search.tree.vectors)
    assert isinstance(search.reader, CodeDecoder)
    return type(search)(search.reader.to("meta"), CodeTree(blind, vectors))


@torch.no_grad()
def test_no_step_looks_at_a_value() -> None:
    """On the meta device whatever would make the host wait for a GPU is an error."""
    blind = on_meta(search_of(vectors=True), beam=9)
    trie = blind.tree.trie
    before = tuple(torch.zeros(1, len(level) + 1, dtype=torch.int32, device="meta") for level in trie.levels)
    gone = tuple(torch.zeros(5, 30, dtype=torch.int64, device="meta") for _ in trie.levels)
    which = torch.zeros(5, dtype=torch.int64, device="meta")
    limits = Allowed(trie, ItemFilter(trie, before), which, gone)
    beams = _last_beams(blind, torch.zeros(5, WIDTH, device="meta"), limits, 9, 6)
    assert beams.nodes.shape == beams.scores.shape == (5, 6)
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(beams.broken.any())


@needs_triton
@pytest.mark.parametrize("block", [4, 512])
@pytest.mark.parametrize("dense", [None, 0, 32], ids=["no vectors", "vectors by place", "vectors by node"])
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(("normed", "filtered"), [(False, False), (True, True), (False, True)])
def test_kernel_equals_the_formula(
    monkeypatch: pytest.MonkeyPatch, dense: int | None, repeated: bool, normed: bool, filtered: bool, block: int
) -> None:
    """Child by child in double precision; two beams of the first user are dead."""
    from semid.generative import children_triton

    monkeypatch.setattr(children_triton, "_BLOCK", block)
    monkeypatch.setattr(children_triton, "DENSE", dense or 0)
    trie = search_of(vectors=False, repeated=repeated).tree.trie.to(DEVICE)
    generator = torch.Generator(DEVICE).manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=DEVICE)

    users, width, depth = 3, 8, 2
    above = len(trie.levels[depth - 1])
    nodes = torch.stack([torch.randperm(above, device=DEVICE)[:width].sort().values for _ in range(users)])
    known = random(users, width).abs().neg()
    known[0, 3:5] = -torch.inf
    beams = Beams(nodes, nodes * 0, known, known[:, 0], known[:, 0] > 0)
    mask = torch.rand(2, trie.num_items, generator=generator, device=DEVICE) < 0.5
    which = torch.tensor([1, 0, 1], device=DEVICE)
    limits = Allowed(trie, ItemFilter.of(trie, mask) if filtered else None, which, None)
    children = Children.of(trie, depth, nodes, known > -torch.inf, size=trie.most_children(depth - 1, width))
    step = StepLogits(
        random(users * width, SIZES[depth]),
        query=None if dense is None else random(users, WIDTH),
        vectors=None if dense is None else random(len(trie.levels[depth]), WIDTH),
        mass=random(users * width) if normed else None,
    )
    scores = children_triton.fused_scores(step, children, beams, limits)

    expected, place = torch.full_like(scores, -torch.inf, dtype=torch.float64), [0] * users
    for user, beam in product(range(users), range(width)):
        if known[user, beam] == -torch.inf:
            continue
        low, high = trie.levels[depth - 1].children[nodes[user, beam] : nodes[user, beam] + 2].tolist()
        codes, row = trie.levels[depth].codes[low:high].long(), user * width + beam
        values = step.codes[row, codes].double()
        if step.query is not None and step.vectors is not None:
            values += step.vectors[low:high].double() @ step.query[user].double()
        once = torch.tensor([code not in codes[:at] for at, code in enumerate(codes)], device=DEVICE)
        mass = values[once].logsumexp(0) if step.mass is None else step.mass[row]
        values = known[user, beam] + values - mass
        if filtered:
            values[~mask[which[user], trie.items[low:high].long()]] = -torch.inf
        expected[user, place[user] : place[user] + high - low] = values
        place[user] += high - low
    torch.testing.assert_close(scores.double(), expected, rtol=1e-5, atol=1e-5)
    assert expected.isfinite().any()
    assert not expected.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["item", "code"])
def test_a_search_can_be_held_by_tensors_that_take_other_values(
    rich: Dataset, catalogue: Catalogue, build: Any, layout: str
) -> None:
    """As a graph holds it: what was copied gives the search that it was copied from."""
    model = build.model(catalogue, layout=layout)
    made = GenerativeRecommender(model, catalogue, np.arange(24), rich.action_names)
    inputs = []
    for histories in ([[3, 7, 5], [1, 2, 9]], [[4, 4, 11], [22, 23, 0]]):
        states = made.encode(queries_from_histories(histories, 24), "buy")
        seen = torch.tensor(histories)
        limits = Allowed.of(catalogue.trie, 2, None, None, seen)
        inputs.append(Inputs(made._search(states, np.arange(2)), states.states, limits))
    held = inputs[0].of([value.clone() for value in inputs[0].tensors()])
    for mine, value in zip(held.tensors(), inputs[1].tensors(), strict=True):
        mine.copy_(value)
    found, expected = (_last_beams(part.search, part.state, part.limits, 9, 6) for part in (held, inputs[1]))
    other = _last_beams(inputs[0].search, inputs[0].state, inputs[0].limits, 9, 6)
    assert torch.equal(found.nodes, expected.nodes)
    assert torch.equal(found.scores, expected.scores)
    assert not torch.allclose(found.scores, other.scores)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def on_gpu(search: CodeSearch) -> CodeSearch:
    assert search.tree.vectors is not None
    assert isinstance(search.reader, CodeDecoder)
    tree = CodeTree(search.tree.trie.to("cuda"), tuple(part.cuda() for part in search.tree.vectors))
    return CodeSearch(search.reader.cuda(), tree)


@needs_gpu
def test_a_gpu_finds_what_a_cpu_finds_without_being_waited_for() -> None:
    state, search = torch.randn(5, WIDTH), search_of(vectors=True, repeated=True)
    expected = beam_search(search, state, search.tree.trie, beam=20, k=20)
    there, states = on_gpu(search), state.cuda()
    limits = Allowed.of(there.tree.trie, 5, None, None, None)
    _last_beams(there, states, limits, 20, 20)  # tables and kernels are made
    torch.cuda.set_sync_debug_mode("error")
    try:
        beams = _last_beams(there, states, limits, 20, 20)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    scores = beams.scores.sort(dim=1, descending=True).values.cpu()
    torch.testing.assert_close(scores, expected.scores, rtol=1e-3, atol=1e-3)


@needs_gpu
def test_a_graph_gives_what_it_was_captured_from() -> None:
    there, graphs = on_gpu(search_of(vectors=True)), SearchGraphs()
    trie = there.tree.trie
    for seed in range(3):
        torch.manual_seed(seed)
        state = torch.randn(5, WIDTH, device="cuda")
        seen = torch.randint(-1, trie.num_items, (5, 8), device="cuda")
        plain, graphed = (
            beam_search(there, state, trie, beam=20, k=9, seen=seen, graphs=held) for held in (None, graphs)
        )
        assert torch.equal(plain.items, graphed.items)
        torch.testing.assert_close(plain.scores, graphed.scores)
