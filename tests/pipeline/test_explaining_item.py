"""What is said of an item against loops over the whole catalogue, for every quantiser and collision policy."""

import json
from pathlib import Path

import numpy as np
import pytest

from semid.artifacts import create_artifact
from semid.data.building.builder import DatasetBuilder
from semid.data.dataset import Dataset
from semid.data.splits import SplitConfig
from semid.errors import InputError
from semid.pipeline.explaining_item import explain_item
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig

NUM_ITEMS = 90
TOKENIZERS = {
    "optimal": {},
    "nearest": {"collisions": "nearest"},
    "extra": {"collisions": "extra"},
    "none": {"collisions": "none"},
    "opq": {"quantiser": "opq", "levels": 4, "codes": 4},
    "rq-vae": {"quantiser": "rq-vae", "options": {"steps": 20}},
}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Of two embeddings, the second partly missing; three items have none, and some have the same."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("items") / "d"
    with create_artifact(path, "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items = NUM_ITEMS
        builder.append_events(np.full(40, 5), rng.integers(0, 60, 200), np.zeros(200), np.zeros(200))
        for name, dim, share in (("a", 8, 1.0), ("b", 12, 0.6)):
            vectors = rng.normal(size=(12, dim))[rng.integers(0, 12, NUM_ITEMS)] + 0.3 * rng.normal(
                size=(NUM_ITEMS, dim)
            )
            vectors[40:44] = vectors[40]
            rows = np.flatnonzero((rng.random(NUM_ITEMS) < share) & (np.arange(NUM_ITEMS) > 2))
            builder.embedding(name, dim).put(rows, vectors[rows])
        builder.set_candidates(np.arange(5, NUM_ITEMS))
        builder.finish(SplitConfig(hold_out_items=0.1))
    return Dataset.open(path)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest, dataset: Dataset) -> SemanticIdTokenizer:
    config = {"embeddings": ("a", "b"), "codes": 6, "svd": 6, **TOKENIZERS[request.param]}
    return SemanticIdTokenizer(TokenizerConfig(**config)).fit(list(dataset.embeddings.values()))


def test_levels_and_neighbours_agree_with_loops(dataset: Dataset, tokenizer: SemanticIdTokenizer) -> None:
    codes, vectors = tokenizer.semantic_ids_.codes.tolist(), np.asarray(tokenizer.vectors_)
    latents = tokenizer.quantiser_.latents(vectors).astype(np.float64)
    for item in (0, 3, 17, 40, 41, 42, 43, 80, int(dataset.held_out[0])):
        found = explain_item(tokenizer, dataset, item, neighbours=2)
        assert found.codes == tuple(codes[item])
        assert [level.items for level in found.levels] == [
            sum(other[: depth + 1] == codes[item][: depth + 1] for other in codes) for depth in range(len(codes[0]))
        ]
        left, before = latents[item], (latents[item] ** 2).sum()
        whole = before
        for depth, level in enumerate(found.levels):
            if depth < len(tokenizer.quantiser_.codebooks_):
                left = left - tokenizer.quantiser_.codebooks_[depth][codes[item][depth]]
            assert level.share == pytest.approx((before - (left**2).sum()) / whole, abs=1e-6)
            before = (left**2).sum()
        assert found.rest == pytest.approx(before / whole, abs=1e-6)
        assert sum(level.share for level in found.levels) + found.rest == pytest.approx(1)

        expected = []
        for depth in range(len(codes[0]), -1, -1):
            there = []
            for other in range(3, NUM_ITEMS):
                same = next(
                    (n for n, (x, y) in enumerate(zip(codes[item], codes[other], strict=True)) if x != y), None
                )
                if other != item and (len(codes[0]) if same is None else same) == depth:
                    there.append((float(np.linalg.norm(vectors[item] - vectors[other])), other))
            expected += [(other, depth, distance) for distance, other in sorted(there)[:2]]
        near = [(n.item.id, n.shared, n.distance) for n in found.neighbours]
        assert [n[:2] for n in near] == [e[:2] for e in expected if item > 2]
        np.testing.assert_allclose([n[2] for n in near], [e[2] for e in expected if item > 2], rtol=1e-4, atol=1e-5)
        assert all(n.codes == tuple(codes[n.item.id]) for n in found.neighbours)


def test_facts(dataset: Dataset, tokenizer: SemanticIdTokenizer) -> None:
    for item in (0, 4, 5, 17, 41, *dataset.held_out.tolist()):
        found = explain_item(tokenizer, dataset, item, neighbours=0)
        assert found.neighbours == ()
        assert found.train_events == dataset.train_counts[item]
        assert found.candidate == (item >= 5)
        assert found.held_out == (item in dataset.held_out)
        assert found.embeddings == tuple(name for name in "ab" if dataset.embedding(name).valid[item])
        json.dumps(found.to_dict())


def test_who_gave_way_to_whom(dataset: Dataset, tokenizer: SemanticIdTokenizer) -> None:
    """Those whose codes are not the nearest; the nearest are those of another item, or of nobody any more."""
    ids, levels = tokenizer.semantic_ids_.codes, tokenizer.config.levels
    nearest = tokenizer.quantiser_.encode(np.asarray(tokenizer.vectors_))
    moved = 0
    for item in range(NUM_ITEMS):
        found = explain_item(tokenizer, dataset, item, neighbours=0)
        assert found.nearest == tuple(nearest[item].tolist())
        assert found.moved == bool((ids[item, :levels] != nearest[item]).any())
        moved += found.moved
        text = dict(found.summary_rows())["collision"]
        holders = np.flatnonzero((ids[:, :levels] == nearest[item]).all(1))
        if found.moved:
            assert text.startswith("it gave way: the nearest codes are " + "-".join(map(str, found.nearest)))
            assert (found.holder.id if found.holder else None) == (holders[0] if len(holders) else None)
            assert ("which item" in text) == bool(len(holders))
        elif found.levels[-1].items > 1:
            assert text == f"{found.levels[-1].items - 1} other items have the same codes"
        else:
            assert text == "none: these are its nearest codes, and its alone"
    policy = tokenizer.config.collisions
    assert (moved > 0) == (policy in ("optimal", "nearest"))


def test_an_item_of_no_embedding(dataset: Dataset, tokenizer: SemanticIdTokenizer) -> None:
    rows = dict(explain_item(tokenizer, dataset, 1).summary_rows())
    assert rows["embeddings"] == "none: its codes stand for a random vector"
    assert rows["item"].endswith(", no candidate")


def test_tables(dataset: Dataset, tokenizer: SemanticIdTokenizer) -> None:
    found = explain_item(tokenizer, dataset, 17)
    header, *rows, rest = found.level_rows()
    assert header == ("level", "code", "items with the same codes", "explains")
    assert [row[1] for row in rows] == [str(code) for code in found.codes]
    assert rest[3] == f"{found.rest:.1%}"
    assert found.neighbour_rows()[0] == ("item", "shared", "codes", "distance")
    assert len(found.neighbour_rows()) == 1 + len(found.neighbours)


def test_what_cannot_be(dataset: Dataset, tokenizer: SemanticIdTokenizer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="-1 neighbours cannot be named: ask for at least 0"):
        explain_item(tokenizer, dataset, 3, neighbours=-1)
    with create_artifact(tmp_path / "other", "dataset") as writer:
        builder = DatasetBuilder(writer)
        builder.num_items = NUM_ITEMS
        builder.append_events(np.array([2]), np.array([0, 1]), np.zeros(2), np.zeros(2))
        builder.finish(SplitConfig())
    other = Dataset.open(tmp_path / "other")
    saved = tokenizer.save(tmp_path / "t", parents={"dataset": other.artifact_or_raise})
    with pytest.raises(InputError, match="was made from another dataset"):
        explain_item(SemanticIdTokenizer.load(saved.path), dataset, 3)
