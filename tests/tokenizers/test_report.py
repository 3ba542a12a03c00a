import json

import numpy as np
import pytest

from semid.data.features import Embedding, Fields
from semid.tokenizers.collisions.resolution import resolve
from semid.tokenizers.report import QualityReport, measure_purity, measure_quality
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig, decode


def measured(num_items: int = 400, policy: str = "nearest") -> tuple[QualityReport, np.ndarray, np.ndarray]:
    """A report, with the vectors and the final codes it is about."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, 6)).astype(np.float32)
    known = np.arange(num_items) % 10 != 0
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=(8, 64))).fit(vectors[known])
    codes = quantiser.encode(vectors)
    resolution = resolve(codes, vectors, quantiser.codebooks_, policy=policy)
    report = measure_quality(
        vectors=vectors,
        known=known,
        captured=0.9,
        embeddings=[Embedding("a", vectors, known), Embedding("b", vectors, np.arange(num_items) % 2 == 0)],
        codes=codes,
        resolution=resolution,
        codebooks=quantiser.codebooks_,
    )
    return report, vectors, resolution.codes


def test_figures_of_each_level_by_brute_force() -> None:
    report, _, codes = measured()
    for depth, level in enumerate(report.levels):
        _, counts = np.unique(codes[:, depth], return_counts=True)
        share = counts / len(codes)
        assert level.used == len(counts)
        assert level.utilisation == level.used / level.codes
        assert level.perplexity == pytest.approx(np.prod(share**-share))
        prefixes, sizes = np.unique(codes[:, : depth + 1], axis=0, return_counts=True)
        assert (level.prefixes, level.largest_prefix) == (len(prefixes), sizes.max())
        same = (codes[:, None, : depth + 1] == codes[None, :, : depth + 1]).all(2)
        assert level.chance_shared == pytest.approx((same.sum() - len(codes)) / (len(codes) * (len(codes) - 1)))


def test_errors_are_of_the_known_items() -> None:
    report, vectors, codes = measured()
    known = np.arange(len(vectors)) % 10 != 0
    rng = np.random.default_rng(0)
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=(8, 64))).fit(
        rng.standard_normal((400, 6)).astype(np.float32)[known]
    )
    variance = vectors[known].var(axis=0).sum()
    for depth, level in enumerate(report.levels):
        rest = vectors - decode(codes[:, : depth + 1], quantiser.codebooks_[: depth + 1])
        assert level.relative_error == pytest.approx((rest[known] ** 2).sum(1).mean() / variance, rel=1e-4)
    assert report.relative_error == report.levels[-1].relative_error
    assert report.unresolved_error <= report.relative_error


def test_neighbours_by_brute_force() -> None:
    report, vectors, codes = measured()
    rows = np.flatnonzero(np.arange(len(vectors)) % 10 != 0)
    distances = ((vectors[rows][:, None] - vectors[rows][None]) ** 2).sum(2)
    np.fill_diagonal(distances, np.inf)
    nearest = rows[np.argsort(distances, axis=1)[:, :10]]
    for depth, level in enumerate(report.levels):
        shared = (codes[nearest][:, :, : depth + 1] == codes[rows][:, None, : depth + 1]).all(2).mean()
        assert level.neighbours_shared == pytest.approx(shared)
    assert report.levels[0].neighbours_shared > 2 * report.levels[0].chance_shared


def test_missing_shares() -> None:
    report, _, _ = measured()
    assert report.missing == {"a": pytest.approx(0.1), "b": pytest.approx(0.5)}
    assert report.missing_all == pytest.approx(0.1)


def test_purity_by_hand() -> None:
    codes = np.array([[0, 0], [0, 1], [0, 1], [1, 0], [1, 1], [2, 0]], np.int32)
    values = np.array([[2, 0], [3, 0], [3, 2], [4, 0], [4, 2], [0, 0]], np.int32)
    colour, size = measure_purity(codes, Fields(("colour", "size"), (5, 3), values))
    assert colour.field == "colour"
    assert colour.by_level == (pytest.approx(2 / 4), 1.0)  # pairs 1-2 and 3-4 of 0-1, 0-2, 1-2, 3-4; then 1-2 alone
    assert colour.chance == pytest.approx(2 / 10)
    assert (size.by_level, size.chance) == ((None, None), 1.0)


def test_a_column_without_pairs_is_left_out() -> None:
    values = np.array([[2], [0], [1]], np.int32)
    assert measure_purity(np.zeros((3, 1), np.int32), Fields(("x",), (3,), values)) == ()


def test_json_round_trip() -> None:
    report, _, codes = measured()
    fields = Fields(("parity",), (4,), (2 + np.arange(len(codes)) % 2).astype(np.int32)[:, None])
    report = report.with_purity(codes, fields)
    text = json.dumps(report.to_dict())
    assert QualityReport.from_dict(json.loads(text)) == report
    assert json.loads(text)["levels"][0]["utilisation"] == report.levels[0].utilisation


def test_tables_have_a_row_for_everything() -> None:
    report, _, codes = measured(policy="extra")
    fields = Fields(("parity",), (4,), (2 + np.arange(len(codes)) % 2).astype(np.int32)[:, None])
    levels = report.level_rows()
    assert len(levels) == 1 + 3  # header, two levels, the additional one
    assert len({len(row) for row in levels}) == 1
    assert report.levels[2].relative_error == report.levels[1].relative_error
    names = [name for name, _ in report.summary_rows()]
    assert {"items", "relative error", "collisions", "lacking a", "lacking b"} <= set(names)
    assert [len(row) for row in report.with_purity(codes, fields).purity_rows()] == [5, 5]
    assert len(report.purity_rows()) == 1
