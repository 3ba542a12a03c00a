import itertools
import math

import faiss
import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig, decode

PLAIN = {"beam": 1, "rounds": 0, "hartigan": "never"}


def vectors_of(seed: int, num_rows: int = 1500, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)


def clustered(seed: int, num_rows: int, dim: int) -> np.ndarray:
    """Clusters of uneven size and much else, both in directions of falling variance, as embeddings have."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((200, dim))
    members = rng.choice(200, num_rows, p=rng.dirichlet(np.full(200, 0.5)))
    spectrum = np.arange(1, dim + 1) ** -0.7
    return ((centres[members] + rng.standard_normal((num_rows, dim)) * 0.8) * spectrum).astype(np.float32)


def fitted(vectors: np.ndarray, **settings: object) -> RQKMeans:
    return RQKMeans(RQKMeansConfig(**settings)).fit(vectors)  # type: ignore[arg-type]


def error(quantiser: RQKMeans, vectors: np.ndarray, codes: np.ndarray | None = None) -> float:
    codes = quantiser.encode(vectors) if codes is None else codes
    return float(((vectors.astype(np.float64) - quantiser.decode(codes)) ** 2).sum() / len(vectors))


def test_codes_are_the_nearest_centroids_of_the_residuals() -> None:
    vectors = vectors_of(0)
    quantiser = fitted(vectors, levels=3, codes=(16, 8, 4), beam=1)
    assert [codebook.shape for codebook in quantiser.codebooks_] == [(16, 8), (8, 8), (4, 8)]
    codes = quantiser.encode(vectors)
    assert codes.dtype == np.int32
    residuals = vectors.astype(np.float64)
    for level, codebook in enumerate(quantiser.codebooks_):
        distances = ((residuals[:, None] - codebook[None]) ** 2).sum(2)
        np.testing.assert_array_equal(codes[:, level], distances.argmin(1))
        residuals = residuals - codebook[codes[:, level]]
    np.testing.assert_allclose(quantiser.decode(codes), vectors - residuals, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"normalise": True}, {"balanced": 1.2}, PLAIN])
def test_each_level_lowers_the_error_towards_zero(settings: dict[str, object]) -> None:
    vectors = vectors_of(1)
    quantiser = fitted(vectors, levels=4, codes=32, **settings)
    codes = quantiser.encode(vectors)
    errors = [((vectors - decode(codes[:, :d], quantiser.codebooks_[:d])) ** 2).mean() for d in range(1, 5)]
    assert all(later < 0.75 * earlier for earlier, later in itertools.pairwise(errors))


def test_wide_beam_finds_the_best_of_all_paths() -> None:
    vectors = vectors_of(2, 60, 4)
    quantiser = fitted(vectors, levels=3, codes=5)
    paths = np.array(list(itertools.product(range(5), repeat=3)))
    distances = ((vectors[:, None].astype(np.float64) - quantiser.decode(paths)[None]) ** 2).sum(2)
    np.testing.assert_array_equal(quantiser.encode(vectors, beam=125), paths[distances.argmin(1)])


def test_each_lever_lowers_the_error_of_vectors_held_out() -> None:
    vectors = clustered(4, 3000, 48)
    fit, held_out = vectors[:2600], vectors[2600:]
    # Hartigan's moves alone are not among them: what they gain here, vectors held out to judge them cost.
    steps = [{"beam": 1, "rounds": 0}, {"rounds": 0}, {"noise": 0.0}, {}]
    errors = [error(fitted(fit, levels=3, codes=64, **settings), held_out) for settings in steps]
    assert all(later < earlier for earlier, later in itertools.pairwise(errors))
    default, plain = fitted(fit, levels=3, codes=64), fitted(fit, levels=3, codes=64, **PLAIN)
    assert error(default, held_out) < 0.9 * error(plain, held_out)
    assert error(default, fit) < 0.9 * error(plain, fit)


@pytest.mark.parametrize(
    ("num_rows", "dim", "codes"),
    [(300, 4, (64, 64)), (500, 40, (128, 16)), (2000, 2, (8, 8)), (1000, 16, (500, 4)), (130, 8, (128, 128))],
)
def test_never_worse_than_lloyd_from_random_starts(num_rows: int, dim: int, codes: tuple[int, ...]) -> None:
    vectors = clustered(4, num_rows, dim)
    faiss.omp_set_num_threads(1)
    theirs = []
    for seed in range(3):
        residuals = vectors.copy()
        for level, num_codes in enumerate(codes):
            kmeans = faiss.Kmeans(dim, num_codes, niter=25, seed=seed + 10 * level, min_points_per_centroid=1)
            kmeans.train(residuals)
            residuals -= kmeans.centroids[kmeans.index.search(residuals, 1)[1][:, 0]]
        theirs.append((residuals.astype(np.float64) ** 2).sum() / num_rows)
    ours = [error(fitted(vectors, levels=len(codes), codes=codes, seed=seed), vectors) for seed in range(3)]
    assert np.mean(ours) <= np.mean(theirs) * 1.001 + 1e-9


def test_hartigan_is_left_out_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Moves that are worse for the vectors held out are not kept unless asked for."""

    def worse(
        vectors: np.ndarray, codes: np.ndarray, num_codes: int, *_: object, **__: object
    ) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((num_codes, vectors.shape[1]), np.float32), np.zeros_like(codes)

    monkeypatch.setattr("semid.tokenizers.residual.levels.hartigan", worse)
    vectors = vectors_of(5)
    judged = fitted(vectors, levels=2, codes=16, rounds=0)
    assert all(book.any(axis=1).all() for book in judged.codebooks_)
    always = fitted(vectors, levels=2, codes=16, rounds=0, hartigan="always")
    assert not any(book.any() for book in always.codebooks_)


def test_refinement_is_left_out_where_it_does_not_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(_: np.ndarray, codes: np.ndarray, books: list[np.ndarray], *__: object, **___: object) -> object:
        return [np.zeros_like(book) for book in books], codes

    vectors = vectors_of(5)
    without = fitted(vectors, levels=2, codes=16, rounds=0)
    monkeypatch.setattr("semid.tokenizers.rq_kmeans.refine", worse)
    kept = fitted(vectors, levels=2, codes=16)
    for book, expected in zip(kept.codebooks_, without.codebooks_, strict=True):
        np.testing.assert_array_equal(book, expected)


def test_balanced_codes_take_their_share_and_no_more() -> None:
    vectors = clustered(6, 1000, 6)
    quantiser = fitted(vectors, levels=2, codes=30, balanced=1.1)
    codes = quantiser.encode_together(vectors)
    capacity = math.floor(math.ceil(1000 / 30) * 1.1)
    for level in range(2):
        assert np.bincount(codes[:, level], minlength=30).max() <= capacity
    alone = quantiser.encode(vectors)
    assert np.bincount(alone[:, 0], minlength=30).max() > capacity
    assert error(quantiser, vectors, codes) < 1.2 * error(quantiser, vectors, alone)
    plain = fitted(vectors, levels=2, codes=30)
    np.testing.assert_array_equal(plain.encode_together(vectors), plain.encode(vectors))


def test_normalised_codes_go_by_direction_and_decode_to_the_vectors() -> None:
    vectors = clustered(7, 2000, 6)
    quantiser = fitted(vectors, levels=2, codes=40, normalise=True)
    codes = quantiser.encode(vectors)
    residuals = vectors.astype(np.float64)
    for level, book in enumerate(quantiser.codebooks_):
        cosines = residuals @ (book / np.linalg.norm(book, axis=1, keepdims=True)).T
        chosen = cosines[np.arange(2000), codes[:, level]]
        np.testing.assert_allclose(chosen, cosines.max(1), rtol=1e-4, atol=1e-5)
        # each centroid is nearly the mean of what it stands for, at its full length
        means = np.stack([residuals[codes[:, level] == code].mean(0) for code in np.unique(codes[:, level])])
        used = book[np.unique(codes[:, level])]
        assert np.linalg.norm(means - used) < 0.1 * np.linalg.norm(used)
        residuals = residuals - book[codes[:, level]]
    np.testing.assert_allclose(quantiser.decode(codes), vectors - residuals, atol=1e-4)
    assert error(quantiser, vectors) < 1.4 * error(fitted(vectors, levels=2, codes=40, **PLAIN), vectors)


@pytest.mark.parametrize("start", ["random", "plus-plus", "hierarchical", "shrunk", "spherical"])
def test_starts_end_near_each_other(start: str) -> None:
    vectors = clustered(8, 3000, 8)
    best = error(fitted(vectors, levels=2, codes=32, **PLAIN), vectors)
    assert error(fitted(vectors, levels=2, codes=32, start=start, **PLAIN), vectors) < 1.1 * best


def test_a_seed_repeats_and_others_differ() -> None:
    vectors = vectors_of(9)

    def books(**changes: int) -> list[np.ndarray]:
        return fitted(vectors, levels=2, codes=16, **changes).codebooks_

    np.testing.assert_array_equal(books(seed=1)[1], books(seed=1)[1])
    assert not np.array_equal(books(seed=1)[1], books(seed=2)[1])


def test_vectors_given_are_left_alone() -> None:
    vectors = vectors_of(10)
    before = vectors.copy()
    fitted(vectors, levels=2, codes=16).encode(vectors)
    np.testing.assert_array_equal(vectors, before)


def test_progress_comes_to_its_end() -> None:
    seen: list[tuple[str, int, int]] = []
    config = RQKMeansConfig(levels=2, codes=16, rounds=3)
    RQKMeans(config).fit(vectors_of(11), progress=lambda *step: seen.append(step))
    assert seen == [
        ("fit levels", 1, 5),
        ("fit levels", 2, 5),
        ("refine levels", 3, 5),
        ("refine levels", 4, 5),
        ("refine levels", 5, 5),
    ]


def test_more_vectors_than_a_refinement_looks_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("semid.tokenizers.rq_kmeans._REFINED_ROWS", 20)
    vectors = vectors_of(12, 3000)
    quantiser = fitted(vectors, levels=2, codes=32)
    assert error(quantiser, vectors) < 0.97 * error(fitted(vectors, levels=2, codes=32, **PLAIN), vectors)


def test_no_vectors_give_no_codes() -> None:
    quantiser = fitted(vectors_of(7), levels=2, codes=4)
    for beam in (1, 3):
        assert quantiser.encode(np.empty((0, 8), np.float32), beam=beam).shape == (0, 2)


def test_state_is_read_back() -> None:
    vectors = vectors_of(13)
    quantiser = fitted(vectors, levels=2, codes=8)
    again = RQKMeans(quantiser.config).from_arrays(quantiser.to_arrays())
    np.testing.assert_array_equal(again.encode(vectors), quantiser.encode(vectors))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 0}, "number of levels is 0"),
        ({"codes": (4, 4)}, "2 codebook sizes were given for 3 levels"),
        ({"codes": 0}, "number of codes is 0"),
        ({"iterations": 0}, "number of iterations is 0"),
        ({"beam": 0}, "beam is 0"),
        ({"rounds": -1}, "number of rounds is -1"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"start": "middle"}, "start of k-means is 'middle' but must be one of auto"),
        ({"hartigan": "maybe"}, "hartigan is 'maybe' but must be one of judged, always, never"),
        ({"balanced": 0.9}, "slack of balanced codes is 0.9"),
        ({"balanced": 1.0, "normalise": True}, "not both"),
        ({"balanced": 1.0, "beam": 4}, "beam of 4 cannot be searched with balanced"),
        ({"normalise": True, "rounds": 2}, "cannot be fitted together with normalise"),
    ],
)
def test_mistakes_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RQKMeansConfig(**settings)  # type: ignore[arg-type]


def test_fewer_vectors_than_codes_are_refused() -> None:
    with pytest.raises(InputError, match="256 codes from 100 vectors"):
        fitted(vectors_of(0, 100))


def test_very_many_vectors_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Codebooks of 1,600 of 6,000 vectors: they serve all nearly as well, and no vector outside matters to them."""
    monkeypatch.setattr("semid.tokenizers.rq_kmeans._FITTED_ROWS", 100)
    monkeypatch.setattr("semid.tokenizers.rq_kmeans._FITTED_AT_LEAST", 0)
    vectors = clustered(0, 6000, 8)
    sampled = fitted(vectors, codes=16, **PLAIN)
    drawn = np.random.default_rng(0).choice(6000, 1600, replace=False)
    changed = np.full_like(vectors, 1e3)
    changed[drawn] = vectors[drawn]
    for book, same in zip(sampled.codebooks_, fitted(changed, codes=16, **PLAIN).codebooks_, strict=True):
        np.testing.assert_array_equal(book, same)
    monkeypatch.setattr("semid.tokenizers.rq_kmeans._FITTED_AT_LEAST", 6000)
    whole = fitted(vectors, codes=16, **PLAIN)
    assert error(whole, vectors) < error(sampled, vectors) < 1.1 * error(whole, vectors)


def test_paths_and_rounds_go_by_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RQKMeansConfig(codes=256).paths == 16
    assert RQKMeansConfig(codes=(2048, 64, 64)).paths == 4
    assert RQKMeansConfig(codes=2048, balanced=1.1).paths == RQKMeansConfig(levels=1).paths == 1
    refined: list[int] = []

    def refine(*given: object, **how: object):
        refined.append(len(given[0]))  # type: ignore[arg-type]
        return given[2], given[1]

    monkeypatch.setattr("semid.tokenizers.rq_kmeans.refine", refine)
    vectors = vectors_of(0, 400, 4)
    fitted(vectors, codes=64, iterations=2)
    assert not refined  # 360 / 64 vectors a code are too few
    fitted(vectors, codes=32, iterations=2)
    assert refined[0] == 360
