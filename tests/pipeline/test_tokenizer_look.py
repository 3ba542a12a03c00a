"""What is put together for the page, against loops over the items."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from semid.data.dataset import Dataset
from semid.data.features import Embedding
from semid.errors import InputError
from semid.pages.page import rendered
from semid.pages.tokenizer_page import tokenizer_sections
from semid.pipeline import tokenizer_look
from semid.pipeline.tokenizer_look import COSINE, look_at
from semid.tokenizers.tokenizer import SemanticIdTokenizer, TokenizerConfig


@pytest.fixture(scope="module")
def dataset(road) -> Dataset:
    return Dataset.open(road.folder / "data")


@pytest.fixture(scope="module")
def tokenizer(road) -> SemanticIdTokenizer:
    return SemanticIdTokenizer.load(road.folder / "runs/tokenizer")


def test_the_tree_counts_items(tokenizer, dataset) -> None:
    look, codes = look_at(tokenizer, dataset), tokenizer.semantic_ids_.codes.tolist()
    for prefix in look.tree:
        depth = len(prefix.codes)
        inside = [row for row, own in enumerate(codes) if tuple(own[:depth]) == prefix.codes]
        assert prefix.items == len(inside)
        assert set(prefix.examples) <= set(inside)
        assert len(prefix.examples) == (0 if depth == 1 else min(3, len(inside)))
    first = [prefix.codes[0] for prefix in look.tree if len(prefix.codes) == 1]
    assert sorted(first) == sorted({own[0] for own in codes})
    assert all(look.codes[row] == tuple(codes[row]) for row in look.codes)
    assert all(look.names[row].id == dataset.item_ids[row] for row in look.names)


def test_only_the_largest_are_told_apart(tokenizer, monkeypatch) -> None:
    counts = Counter(tokenizer.semantic_ids_.codes[:, 0].tolist())
    monkeypatch.setattr(tokenizer_look, "_FIRST", 3)
    monkeypatch.setattr(tokenizer_look, "_DIVIDED", 2)
    monkeypatch.setattr(tokenizer_look, "_SECOND", 1)
    tree = look_at(tokenizer).tree
    assert [prefix.items for prefix in tree if len(prefix.codes) == 1] == sorted(counts.values(), reverse=True)[:3]
    assert sum(len(prefix.codes) == 2 for prefix in tree) == 2


def test_purity_by_cosine_and_by_column(tokenizer, dataset) -> None:
    codes, known = tokenizer.semantic_ids_.codes, tokenizer.known_
    alone = look_at(tokenizer)
    assert alone.purity_of == COSINE
    vectors = np.asarray(tokenizer.vectors_, np.float64)
    for prefix in alone.tree:
        inside = known & (codes[:, : len(prefix.codes)] == prefix.codes).all(axis=1)
        if not inside.any():
            assert prefix.purity is None
            continue
        units = vectors[inside] / np.linalg.norm(vectors[inside], axis=1, keepdims=True)
        mean = units.mean(axis=0)
        assert prefix.purity == pytest.approx(float((units @ mean).mean() / np.linalg.norm(mean)), abs=1e-5)
    beside = look_at(tokenizer, dataset)
    assert beside.purity_of in dataset.item_fields.names
    values = dataset.item_fields.groups(beside.purity_of)
    for prefix in beside.tree:
        inside = (values >= 0) & (codes[:, : len(prefix.codes)] == prefix.codes).all(axis=1)
        commonest = max(Counter(values[inside].tolist()).values(), default=None)
        assert prefix.purity == (commonest and pytest.approx(commonest / inside.sum()))


def test_use_sizes_and_groups(tokenizer, dataset) -> None:
    look, codes = look_at(tokenizer, dataset), tokenizer.semantic_ids_.codes.tolist()
    for level, usage in enumerate(look.usage):
        assert list(usage) == sorted(Counter(own[level] for own in codes).values(), reverse=True)
        buckets = Counter(tuple(own[: level + 1]) for own in codes).values()
        expected = Counter(next(1 << p for p in range(20) if 1 << p >= size) for size in buckets)
        assert look.sizes[level] == dict(sorted(expected.items()))
    vectors = np.asarray(tokenizer.vectors_, np.float64)
    errors = ((vectors - tokenizer.decode(tokenizer.semantic_ids_.codes)) ** 2).sum(axis=1)
    variance = vectors[tokenizer.known_].var(axis=0).sum()
    above = Counter(tuple(own[:-1]) for own in codes)
    parts = {"all": dataset.train_counts >= 0, "with training events": dataset.train_counts > 0}
    parts["new, without"] = ~parts["with training events"]
    assert set(look.groups) == {name for name, part in parts.items() if part.any()}
    for name, group in look.groups.items():
        part = parts[name]
        assert group.items == part.sum()
        assert group.unknown == pytest.approx((~tokenizer.known_[part]).mean())
        assert group.relative_error == pytest.approx(errors[part & tokenizer.known_].mean() / variance, rel=1e-4)
        assert group.first_codes == len({codes[row][0] for row in np.flatnonzero(part)})
        alone = [above[tuple(codes[row][:-1])] == 1 for row in np.flatnonzero(part)]
        assert group.alone == pytest.approx(np.mean(alone))


def test_neighbours_by_vector_and_by_codes(tokenizer) -> None:
    look = look_at(tokenizer, seed=3)
    vectors, decoded = np.asarray(tokenizer.vectors_), tokenizer.decode(tokenizer.semantic_ids_.codes)
    assert len(look.examples) == 6
    for example in look.examples:
        for space, found in ((vectors, example.by_vector), (decoded, example.by_codes)):
            distances = np.linalg.norm(space - space[example.item], axis=1)
            distances[~tokenizer.known_] = distances[example.item] = np.inf
            assert len(found) == len(set(found)) == 5
            assert example.item not in found
            np.testing.assert_allclose(distances[list(found)], np.sort(distances)[:5], atol=1e-3)


def test_a_hundred_thousand_items_under_one_prefix() -> None:
    """The page stays as small as that of a few items, and says how full the prefix is."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.normal(size=(200, 8)) * 50, rng.normal(size=(100_000, 8)) * 0.01]).astype(
        np.float32
    )
    config = TokenizerConfig(embeddings=("a",), levels=2, codes=8, svd=8, collisions="extra")
    tokenizer = SemanticIdTokenizer(config).fit([Embedding("a", vectors, np.ones(len(vectors), bool))])
    look = look_at(tokenizer)
    assert max(prefix.items for prefix in look.tree if len(prefix.codes) == 1) >= 100_000
    figures = [block for section in tokenizer_sections(look) for block in section.blocks if block.kind == "plot"]
    assert sum(len(json.dumps(figure.data)) for figure in figures) < 100_000


def test_the_page_names_items_by_title_or_id(tokenizer, dataset, road, tmp_path: Path, succeeded) -> None:
    """Titles are text whatever they hold; an item without one goes by its id."""
    ids = dataset.item_ids.tolist()
    titles = tmp_path / "titles.csv"
    titles.write_text("item_id,name\n" + "".join(f"{i},<b>{n}</b>\n" for n, i in enumerate(ids) if n % 2))
    page, data = tmp_path / "page.html", ("--data", road.folder / "data")
    succeeded("inspect", road.folder / "runs/tokenizer", "--html", page, *data, "--titles", f"{titles}:name")
    text = page.read_text()
    assert "<b>" not in text[: text.index("</main>")]
    assert "&lt;b&gt;" in text
    look = look_at(tokenizer, dataset)
    untitled = next(row for example in look.examples for row in example.by_vector if row % 2 == 0)
    assert str(ids[untitled]) in text


def test_what_cannot_be(tokenizer, dataset, road, tmp_path, semid) -> None:
    other = replace(dataset, artifact=replace(dataset.artifact_or_raise, checksum="0"))
    with pytest.raises(InputError, match="was made from another dataset"):
        look_at(tokenizer, other)
    place = road.folder / "runs/tokenizer"
    for arguments, told in (
        (("--data", road.folder / "data"), "give --html FILE too"),
        (("--html", tmp_path / "a.html", "--titles", "a.csv:b"), "give --data too"),
        (("--html", tmp_path / "a.txt"), "let it end in .html"),
        (("--html", tmp_path / "a.html", "--data", road.folder / "data", "--titles", "a.csv"), "names no titles"),
    ):
        result = semid("inspect", place, *arguments)
        assert result.exit_code == 1
        assert told in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_nothing_known_of_any_item_is_drawn_too() -> None:
    vectors = np.zeros((30, 4), np.float32)
    vectors[:5] = np.random.default_rng(0).normal(size=(5, 4))
    config = TokenizerConfig(embeddings=("a",), levels=1, codes=4, svd=4, collisions="none")
    fitted = SemanticIdTokenizer(config).fit([Embedding("a", vectors, np.arange(30) < 5)])
    look = look_at(fitted)
    assert "without embedding" in rendered("t", [], tokenizer_sections(look))
