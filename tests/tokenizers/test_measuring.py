import json

import numpy as np
import pytest

from semid.data.features import Embedding, Fields
from semid.tokenizers.collisions.resolution import resolve
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig
from semid.tokenizers.measuring import measure_purity, measure_quality
from semid.tokenizers.report import QualityReport
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig, decode


def measured(num_items: int = 400, policy: str = "nearest") -> tuple[QualityReport, np.ndarray, np.ndarray]:
    """A report, with the vectors and the final codes it is about."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((num_items, 6)).astype(np.float32)
    known = np.arange(num_items) % 10 != 0
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=(8, 64))).fit(vectors[known])
    codes = quantiser.encode(vectors)
    resolution = resolve(codes, vectors, quantiser.codebooks_, policy=policy)
    embeddings = [Embedding("a", vectors, known), Embedding("b", vectors, np.arange(num_items) % 2 == 0)]
    report = measure_quality(
        vectors=vectors,
        known=known,
        valid={embedding.name: embedding.valid for embedding in embeddings},
        preprocessor=Preprocessor(PreprocessorConfig(svd=4)).fit(embeddings),
        quantiser=quantiser,
        codes=codes,
        resolution=resolution,
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
    assert report.relative_error == pytest.approx(report.levels[-1].relative_error, rel=1e-6)
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


def test_neighbours_by_decoded_codes_by_brute_force() -> None:
    report, vectors, codes = measured()
    rows = np.flatnonzero(np.arange(len(vectors)) % 10 != 0)
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=(8, 64))).fit(vectors[rows])
    recalls = []
    for points in (vectors[rows], quantiser.decode(codes[rows])):
        distances = ((points[:, None].astype(np.float64) - points[None]) ** 2).sum(2)
        np.fill_diagonal(distances, np.inf)
        recalls.append(np.argsort(distances, axis=1)[:, :10])
    shared = [len(set(one) & set(other)) for one, other in zip(*map(np.ndarray.tolist, recalls), strict=True)]
    assert report.neighbour_recall == pytest.approx(np.mean(shared) / 10, abs=0.002)


def test_worst_buckets_by_hand() -> None:
    report, vectors, _ = measured()
    quantiser = RQKMeans(RQKMeansConfig(levels=2, codes=(8, 64))).fit(vectors[np.arange(400) % 10 != 0])
    found, counts = np.unique(quantiser.encode(vectors), axis=0, return_counts=True)
    assert [bucket.size for bucket in report.worst_buckets] == sorted(counts[counts > 1].tolist(), reverse=True)[:5]
    for bucket in report.worst_buckets:
        assert counts[(found == bucket.codes).all(1)] == bucket.size
        members = np.flatnonzero((quantiser.encode(vectors) == bucket.codes).all(1))
        assert bucket.rows == tuple(members[:5].tolist())


def test_energy_held_of_each_embedding() -> None:
    """Components that are all of the first embedding and none of the second hold just the first one's energy."""
    rng = np.random.default_rng(3)
    first = np.zeros((500, 4), np.float32)
    first[:, 0] = rng.standard_normal(500)
    second = rng.standard_normal((500, 40)).astype(np.float32)
    every = np.ones(500, bool)
    embeddings = [Embedding("a", first, every), Embedding("b", second, every)]
    quantiser = RQKMeans(RQKMeansConfig(levels=1, codes=4))
    preprocessor = Preprocessor(PreprocessorConfig(svd=1)).fit(embeddings)
    vectors, known = preprocessor.transform(embeddings)
    codes = quantiser.fit(vectors).encode(vectors)
    report = measure_quality(
        vectors=vectors,
        known=known,
        valid={embedding.name: embedding.valid for embedding in embeddings},
        preprocessor=preprocessor,
        quantiser=quantiser,
        codes=codes,
        resolution=resolve(codes, vectors, quantiser.codebooks_, policy="none"),
    )
    assert report.captured_by["a"] > 0.98
    assert report.captured_by["b"] < 0.02
    assert report.captured == pytest.approx(0.5, abs=0.02)


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
    report = report.with_purity(measure_purity(codes, fields))
    text = json.dumps(report.to_dict())
    assert QualityReport.from_dict(json.loads(text)) == report
    assert json.loads(text)["levels"][0]["utilisation"] == report.levels[0].utilisation


def test_names_in_json_are_those_that_tools_know() -> None:
    """A figure that is renamed or dropped breaks tools: raise VERSION with it. New ones may be added."""
    plain = measured()[0].to_dict()
    assert plain["version"] == 1
    assert plain.keys() >= {
        *("items", "dim", "captured", "captured_by", "missing", "missing_all", "relative_error", "unresolved_error"),
        *("neighbour_recall", "collisions", "levels", "worst_buckets", "purity"),
    }
    assert plain["levels"][0].keys() >= {
        *("level", "codes", "used", "utilisation", "perplexity", "prefixes", "largest_prefix", "relative_error"),
        *("neighbours_shared", "chance_shared"),
    }
    assert plain["collisions"].keys() >= {
        *("policy", "overflow", "colliding_before", "colliding_after", "largest_before", "largest_after", "moved"),
        *("prefix_changed", "overflowed", "added_distortion"),
    }
    assert plain["worst_buckets"][0].keys() == {"codes", "size", "rows"}


def test_tables_have_a_row_for_everything() -> None:
    report, _, codes = measured(policy="extra")
    fields = Fields(("parity",), (4,), (2 + np.arange(len(codes)) % 2).astype(np.int32)[:, None])
    levels = report.level_rows()
    assert len(levels) == 1 + 3  # header, two levels, the additional one
    assert len({len(row) for row in levels}) == 1
    assert report.levels[2].relative_error == report.levels[1].relative_error
    names = [name for name, _ in report.summary_rows()]
    assert {"items", "relative error", "neighbours", "collisions", "embedding a", "embedding b"} <= set(names)
    assert [len(row) for row in report.with_purity(measure_purity(codes, fields)).purity_rows()] == [5, 5]
    assert len(report.purity_rows()) == 1
