import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion.preprocessing import Preprocessor, PreprocessorConfig


def embedding(vectors: np.ndarray, valid: np.ndarray | None = None, name: str = "a") -> Embedding:
    valid = np.ones(len(vectors), bool) if valid is None else valid
    return Embedding(name, np.where(valid[:, None], vectors, 0).astype(vectors.dtype), valid)


def correlated(rng: np.random.Generator, num_rows: int, dim: int) -> np.ndarray:
    """Falling variances, far from the origin."""
    mixing = rng.standard_normal((dim, dim)) * 0.8 ** np.arange(dim)
    return (rng.standard_normal((num_rows, dim)) @ mixing.T + 3).astype(np.float32)


def planted(seed: int = 0, num_rows: int = 4000) -> tuple[np.ndarray, list[np.ndarray]]:
    """A shared latent vector seen through three embeddings of 10, 30 and 20 dimensions with a little noise."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((num_rows, 5)) * [3, 2.5, 2, 1.5, 1]
    views = []
    for dim in (10, 30, 20):
        mixing = rng.standard_normal((5, dim))
        view = latent @ mixing + 0.3 * rng.standard_normal((num_rows, dim)) + rng.standard_normal(dim)
        views.append(view.astype(np.float32))
    return latent, views


def views_with(views: list[np.ndarray], *valid: np.ndarray) -> list[Embedding]:
    return [embedding(view, mask, name) for view, mask, name in zip(views, valid, "abc", strict=True)]


def filled_with_means(fitted: Preprocessor, given: list[Embedding]) -> list[Embedding]:
    """What one would do without thinking."""
    filled = [np.where(e.valid[:, None], e.vectors, mean) for e, mean in zip(given, fitted.means_, strict=True)]
    return [embedding(vectors, name=e.name) for vectors, e in zip(filled, given, strict=True)]


@pytest.mark.parametrize("whiten", [0.0, 1.0])
def test_components_agree_with_sklearn(whiten: float) -> None:
    vectors = correlated(np.random.default_rng(0), 3000, 24)
    pca = PCA(6, whiten=whiten == 1, svd_solver="full").fit(vectors.astype(np.float64))
    expected = pca.transform(vectors.astype(np.float64))
    fitted = Preprocessor(PreprocessorConfig(svd=6, whiten=whiten)).fit([embedding(vectors)])
    found, known = fitted.transform([embedding(vectors)])
    assert known.all()
    assert found.dtype == np.float32
    assert fitted.captured_ == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-5)
    if not whiten:  # unit mean energy: our vectors are smaller by one factor
        expected /= np.sqrt(((vectors - vectors.mean(0, dtype=np.float64)) ** 2).sum(1).mean())
    signs = np.sign((found * expected).sum(0))
    np.testing.assert_allclose(found * signs, expected, atol=2e-3 * np.abs(expected).max())


def test_wide_embeddings_take_the_iterative_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = correlated(np.random.default_rng(0), 500, 40)
    full, _ = Preprocessor(PreprocessorConfig(svd=5)).fit([embedding(vectors)]).transform([embedding(vectors)])
    monkeypatch.setattr("semid.tokenizers.fusion.components._DIRECT_DIM", 1)
    some, _ = Preprocessor(PreprocessorConfig(svd=5)).fit([embedding(vectors)]).transform([embedding(vectors)])
    np.testing.assert_allclose(some, full, atol=1e-4)


def test_blocks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    _, views = planted(num_rows=300)
    mask = np.random.default_rng(0).random((3, 300)) < 0.6
    given = views_with(views, *mask)
    whole = Preprocessor(PreprocessorConfig(svd=4)).fit(given)
    vectors, _ = whole.transform(given)
    monkeypatch.setattr("semid.tokenizers.fusion.reading._BLOCK_BYTES", 1)
    tiled = Preprocessor(PreprocessorConfig(svd=4)).fit(given)
    np.testing.assert_allclose(tiled.basis_, whole.basis_, atol=1e-4)
    known = mask.any(0)
    np.testing.assert_allclose(tiled.transform(given)[0][known], vectors[known], atol=1e-4)


def test_energy_of_each_embedding_is_its_weight() -> None:
    rng = np.random.default_rng(0)
    one, two = correlated(rng, 2000, 8), 50 * correlated(rng, 2000, 3)
    given = [embedding(one, name="a"), embedding(two, name="b")]
    for weights, expected in (((1.0, 4.0), 5.0), (None, 2.0)):
        vectors, _ = Preprocessor(PreprocessorConfig(svd=11, weights=weights)).fit(given).transform(given)
        np.testing.assert_allclose(vectors.mean(0), 0, atol=1e-4)
        assert (vectors.astype(np.float64) ** 2).sum(1).mean() == pytest.approx(expected, rel=1e-4)


def test_missing_embeddings_are_made_up_for_by_the_others() -> None:
    _, views = planted()
    everywhere = np.ones(4000, bool)
    rng = np.random.default_rng(1)
    third, second = rng.random(4000) < 0.5, rng.random(4000) < 0.6
    complete = views_with(views, everywhere, everywhere, everywhere)
    partial = views_with(views, everywhere, second, third)
    fitted = Preprocessor(PreprocessorConfig(svd=5)).fit(partial)
    truth, _ = fitted.transform(complete)
    found, known = fitted.transform(partial)
    assert known.all()
    for missing in (~second & third, second & ~third, ~second & ~third):
        error = ((found[missing] - truth[missing]) ** 2).sum(1).mean()
        filled, _ = fitted.transform(filled_with_means(fitted, partial))
        naive = ((filled[missing] - truth[missing]) ** 2).sum(1).mean()
        assert error < 0.02 * (truth**2).sum(1).mean()
        assert error < 0.2 * naive
    np.testing.assert_allclose(found[second & third], truth[second & third], atol=1e-5)


def test_projection_is_the_conditional_mean() -> None:
    """Against float64 regression of the absent block on the present one, with the true moments of a large sample."""
    _, views = planted(num_rows=20_000)
    full = np.ones(20_000, bool)
    fitted = Preprocessor(PreprocessorConfig(svd=5)).fit(views_with(views, full, full, full))
    scaled = [
        (view.astype(np.float64) - view.mean(0, dtype=np.float64)) * scale
        for view, scale in zip(views, fitted.scales_, strict=True)
    ]
    seen, absent = np.concatenate(scaled[:2], axis=1), scaled[2]
    regression = np.linalg.solve(seen.T @ seen, seen.T @ absent)
    expected = np.concatenate([seen, seen @ regression], axis=1) @ fitted.basis_
    found, _ = fitted.transform(views_with(views, full, full, ~full))
    assert ((found - expected) ** 2).sum() < 1e-3 * (expected**2).sum()


def test_no_row_with_all_embeddings() -> None:
    latent, views = planted()
    thirds = np.arange(4000) % 3
    given = views_with(views, thirds != 0, thirds != 1, thirds != 2)
    found, known = Preprocessor(PreprocessorConfig(svd=5)).fit(given).transform(given)
    assert known.all()
    design = np.column_stack([latent, np.ones(len(latent))])
    residual = found - design @ np.linalg.lstsq(design, found, rcond=None)[0]
    assert (residual**2).sum() < 0.1 * (found**2).sum()


def test_disjoint_embeddings_have_nothing_to_say_of_each_other() -> None:
    _, views = planted()
    half = np.arange(4000) < 2000
    given = [embedding(views[0], half, "a"), embedding(views[1], ~half, "b")]
    found, known = Preprocessor(PreprocessorConfig(svd=10)).fit(given).transform(given)
    assert known.all()
    assert np.isfinite(found).all()
    energy = (found**2).sum(1)
    assert energy[half].mean() == pytest.approx(1, rel=0.05)
    assert energy[~half].mean() == pytest.approx(1, rel=0.05)


def test_items_without_any_embedding_are_spread_like_the_others() -> None:
    vectors = correlated(np.random.default_rng(0), 6000, 12)
    valid = np.arange(6000) % 2 == 0
    fitted = Preprocessor(PreprocessorConfig(svd=4, seed=7)).fit([embedding(vectors, valid)])
    found, known = fitted.transform([embedding(vectors, valid)])
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_allclose(found[~valid].std(0), found[valid].std(0), rtol=0.06)
    np.testing.assert_allclose(found[~valid].mean(0), 0, atol=0.05)
    assert len(np.unique(found[~valid], axis=0)) == 3000


def test_random_vectors_depend_on_seed_and_row_alone() -> None:
    vectors = correlated(np.random.default_rng(0), 100, 6)
    few, many = np.arange(100) != 3, (np.arange(100) % 7 != 3)

    def row_3(valid: np.ndarray, seed: int) -> np.ndarray:
        fitted = Preprocessor(PreprocessorConfig(svd=3, seed=seed)).fit([embedding(vectors)])
        return fitted.transform([embedding(vectors, valid)])[0][3]

    np.testing.assert_array_equal(row_3(few, 1), row_3(many, 1))
    assert not np.allclose(row_3(few, 1), row_3(few, 2))


def test_appended_rows_continue_the_draws() -> None:
    vectors = correlated(np.random.default_rng(0), 3000, 6)
    nothing = embedding(vectors, np.zeros(3000, bool))
    fitted = Preprocessor(PreprocessorConfig(svd=3)).fit([embedding(vectors)])
    whole, known = fitted.transform([nothing])
    assert not known.any()
    tail, _ = fitted.transform([embedding(vectors[:900], np.zeros(900, bool))], first_row=2100)
    np.testing.assert_array_equal(tail, whole[2100:])


@pytest.mark.parametrize("rows", [None, np.array([1, 40, 41, 99, 250, 251, 299]), np.arange(60, 190)])
def test_blocks_give_what_transform_gives(rows: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> None:
    _, views = planted(num_rows=300)
    given = views_with(views, *(np.random.default_rng(0).random((3, 300)) < 0.5))
    fitted = Preprocessor(PreprocessorConfig(svd=4, whiten=0.5)).fit(given)
    vectors, known = fitted.transform(given)
    monkeypatch.setattr("semid.tokenizers.fusion.preprocessing._VECTOR_BYTES", 1)
    wanted = np.arange(300) if rows is None else rows
    covered = np.zeros(len(wanted), int)
    for block, part, part_known in fitted.blocks(given, rows):
        np.testing.assert_allclose(part, vectors[wanted[block]], atol=1e-5)
        np.testing.assert_array_equal(part_known, known[wanted[block]])
        covered[block] += 1
    assert (covered == 1).all()


def test_captured_energy_by_embedding() -> None:
    """Against the energy of what the components give back, and of nothing where an embedding is constant."""
    _, views = planted(num_rows=1000)
    given = [*views_with(views, *np.ones((3, 1000), bool)), embedding(np.full((1000, 2), 7.0, np.float32), name="d")]
    fitted = Preprocessor(PreprocessorConfig(svd=3)).fit(given)
    vectors, _ = fitted.transform(given)
    parts = [(e.vectors - mean) * scale for e, mean, scale in zip(given, fitted.means_, fitted.scales_, strict=True)]
    back = np.split(vectors @ fitted.basis_.T, np.cumsum(fitted.dims)[:-1], axis=1)
    expected = [(b**2).sum() / (p**2).sum() for b, p in zip(back[:3], parts[:3], strict=True)]
    found = fitted.captured_by("abcd")
    np.testing.assert_allclose([found[name] for name in "abc"], expected, rtol=1e-3)
    assert found["d"] == 1
    assert np.mean(expected) == pytest.approx(fitted.captured_, rel=1e-3)


def test_fewer_components_where_the_rank_is_lower() -> None:
    rng = np.random.default_rng(0)
    flat = (rng.standard_normal((200, 3)) @ rng.standard_normal((3, 12))).astype(np.float32)
    vectors, _ = Preprocessor(PreprocessorConfig(svd=8)).fit([embedding(flat)]).transform([embedding(flat)])
    assert vectors.shape == (200, 3)
    same = np.full((50, 4), 0.1, np.float32)
    vectors, _ = Preprocessor(PreprocessorConfig(svd=8)).fit([embedding(same)]).transform([embedding(same)])
    assert vectors.shape == (50, 1)
    assert not vectors.any()


def test_a_constant_embedding_beside_another_changes_nothing() -> None:
    vectors = correlated(np.random.default_rng(0), 300, 5)
    constant = embedding(np.full((300, 4), 7.3, np.float32), name="b")
    alone, _ = Preprocessor(PreprocessorConfig(svd=5)).fit([embedding(vectors)]).transform([embedding(vectors)])
    given = [embedding(vectors), constant]
    beside, _ = Preprocessor(PreprocessorConfig(svd=5)).fit(given).transform(given)
    np.testing.assert_allclose(beside, alone, atol=1e-5)
    valid = np.arange(300) > 9
    given = [embedding(vectors, valid), constant]
    vectors, known = Preprocessor(PreprocessorConfig(svd=5)).fit(given).transform(given)
    assert known.all()
    assert np.isfinite(vectors).all()


def test_sample_comes_close() -> None:
    given = [embedding(correlated(np.random.default_rng(0), 5000, 16))]
    whole = Preprocessor(PreprocessorConfig(svd=4)).fit(given)
    some = Preprocessor(PreprocessorConfig(svd=4, sample=1500)).fit(given)
    assert not np.array_equal(some.basis_, whole.basis_)
    cosines = np.linalg.svd(some.basis_.T @ whole.basis_)[1]
    assert cosines.min() > 0.98


def test_half_precision_and_memory_maps(tmp_path) -> None:  # type: ignore[no-untyped-def]
    vectors = correlated(np.random.default_rng(0), 400, 6).astype(np.float16)
    np.save(tmp_path / "v.npy", vectors)
    mapped = Embedding("a", np.load(tmp_path / "v.npy", mmap_mode="r"), np.ones(400, bool))
    exact = [embedding(vectors.astype(np.float32))]
    config = PreprocessorConfig(svd=4)
    np.testing.assert_array_equal(
        Preprocessor(config).fit([mapped]).transform([mapped])[0], Preprocessor(config).fit(exact).transform(exact)[0]
    )


def test_arrays_bring_everything_back() -> None:
    _, views = planted(num_rows=500)
    mask = np.random.default_rng(0).random((3, 500)) < 0.5
    given = views_with(views, *mask)
    config = PreprocessorConfig(svd=5, weights=(1, 2, 3), whiten=0.5)
    fitted = Preprocessor(config).fit(given)
    again = Preprocessor.from_arrays(config, fitted.to_arrays())
    for one, two in zip(fitted.transform(given), again.transform(given), strict=True):
        np.testing.assert_array_equal(one, two)


def test_bad_numbers_are_named() -> None:
    vectors = correlated(np.random.default_rng(0), 20, 3)
    fitted = Preprocessor(PreprocessorConfig(svd=2)).fit([embedding(vectors)])
    for bad in (np.nan, np.inf):
        broken = vectors.copy()
        broken[13, 1] = bad
        with pytest.raises(InputError, match="'a' has NaN or infinity in row 13"):
            Preprocessor(PreprocessorConfig(svd=2)).fit([embedding(broken)])
        with pytest.raises(InputError, match="'a' has NaN or infinity in row 13"):
            fitted.transform([embedding(broken)])
        hidden = Embedding("a", broken, np.arange(20) != 13)
        assert np.isfinite(fitted.transform([hidden])[0]).all()


def test_mistakes_are_named() -> None:
    vectors = correlated(np.random.default_rng(0), 20, 3)
    fitted = Preprocessor(PreprocessorConfig(svd=2)).fit([embedding(vectors)])
    with pytest.raises(InputError, match="'a' has 2 dimensions but was fitted with 3"):
        fitted.transform([embedding(vectors[:, :2])])
    with pytest.raises(InputError, match="2 embeddings were given but 1 were fitted"):
        fitted.transform([embedding(vectors), embedding(vectors, name="b")])
    with pytest.raises(InputError, match="'b' has 19 rows"):
        fitted.fit([embedding(vectors), embedding(vectors[1:], name="b")])
    with pytest.raises(InputError, match="'a' has no valid row"):
        fitted.fit([embedding(vectors, np.zeros(20, bool))])
    with pytest.raises(InputError, match="2 weights were given for 1 embeddings"):
        Preprocessor(PreprocessorConfig(weights=(1, 2))).fit([embedding(vectors)])
    with pytest.raises(InputError, match="No embedding"):
        fitted.fit([])
    with pytest.raises(InputError, match="shape"):
        fitted.fit([Embedding("a", np.zeros((4, 2, 2)), np.ones(4, bool))])
    wrong = ({"svd": 0}, {"weights": (1.0, -1.0)}, {"whiten": 1.5}, {"sample": 1}, {"scale": "?"}, {"fuse": "?"})
    for settings in (*wrong, {"missing": "?"}, {"ridge": -1.0}, {"fuse": "gcca", "scale": "whiten"}):
        with pytest.raises(InputError):
            PreprocessorConfig(**settings)


def test_rotation_keeps_distances_and_evens_variances() -> None:
    given = [embedding(correlated(np.random.default_rng(0), 3000, 24))]
    valid = np.arange(3000) > 1500
    plain, _ = Preprocessor(PreprocessorConfig(svd=12)).fit(given).transform(given)
    fitted = Preprocessor(PreprocessorConfig(svd=12, rotate=True, seed=3)).fit(given)
    turned, _ = fitted.transform(given)
    np.testing.assert_allclose(fitted.rotation_.T @ fitted.rotation_, np.eye(12), atol=1e-6)
    np.testing.assert_allclose(turned, plain @ fitted.rotation_, atol=1e-5)
    np.testing.assert_allclose((turned**2).sum(1), (plain**2).sum(1), rtol=1e-4)
    assert turned.var(0).max() / turned.var(0).min() < 0.3 * plain.var(0).max() / plain.var(0).min()
    other = Preprocessor(PreprocessorConfig(svd=12, rotate=True, seed=4)).fit(given)
    assert not np.allclose(other.rotation_, fitted.rotation_)
    drawn, _ = fitted.transform([embedding(given[0].vectors, valid)])
    np.testing.assert_allclose(np.cov(drawn[~valid].T), np.cov(turned.T), atol=0.1 * turned.var(0).max())


def test_missing_taken_as_the_mean() -> None:
    _, views = planted(num_rows=600)
    given = views_with(views, *(np.random.default_rng(0).random((3, 600)) < 0.6))
    fitted = Preprocessor(PreprocessorConfig(svd=5, missing="mean")).fit(given)
    found, known = fitted.transform(given)
    expected, _ = fitted.transform(filled_with_means(fitted, given))
    np.testing.assert_allclose(found[known], expected[known], atol=1e-5)


def test_embeddings_whitened_one_by_one() -> None:
    """Against sklearn's PCA of the whitened concatenation."""
    rng = np.random.default_rng(0)
    one, two = correlated(rng, 2000, 6), correlated(rng, 2000, 9)
    given = [embedding(one, name="a"), embedding(50 * two, name="b")]
    fitted = Preprocessor(PreprocessorConfig(svd=4, scale="whiten", ridge=0, weights=(1, 3))).fit(given)
    found, _ = fitted.transform(given)
    whitened = [PCA(whiten=True).fit_transform(v.astype(np.float64)) for v in (one, two)]
    pca = PCA(4).fit(np.concatenate([whitened[0] / np.sqrt(6), whitened[1] * np.sqrt(3 / 9)], axis=1))
    np.testing.assert_allclose(found.var(0), pca.explained_variance_, rtol=2e-3)
    expected = pca.transform(np.concatenate([whitened[0] / np.sqrt(6), whitened[1] * np.sqrt(3 / 9)], axis=1))
    cosines = np.linalg.svd(np.linalg.qr(found)[0].T @ np.linalg.qr(expected)[0])[1]
    assert cosines.min() > 0.98
    assert fitted.captured_ == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-3)


@pytest.mark.parametrize("scale", ["energy", "whiten"])
def test_regression_beats_the_mean_however_embeddings_are_scaled(scale: str) -> None:
    _, views = planted()
    everywhere, third = np.ones(4000, bool), np.arange(4000) % 2 == 0
    partial = views_with(views, everywhere, everywhere, third)
    truth = Preprocessor(PreprocessorConfig(svd=5, scale=scale)).fit(partial)
    expected = truth.transform(views_with(views, everywhere, everywhere, everywhere))[0][~third]
    errors = {}
    for missing in ("regression", "mean"):
        found, _ = (
            Preprocessor(PreprocessorConfig(svd=5, scale=scale, missing=missing)).fit(partial).transform(partial)
        )
        errors[missing] = ((found[~third] - expected) ** 2).sum() / (expected**2).sum()
    assert errors["regression"] < 0.02
    assert errors["regression"] < 0.2 * errors["mean"]


def test_missing_views_in_gcca() -> None:
    """What the others say stands in for an absent embedding, at full length; the mean shrinks it."""
    _, views = planted()
    everywhere, third = np.ones(4000, bool), np.arange(4000) % 2 == 0
    partial = views_with(views, everywhere, everywhere, third)
    complete = views_with(views, everywhere, everywhere, everywhere)
    errors = {}
    for missing in ("regression", "mean"):
        fitted = Preprocessor(PreprocessorConfig(svd=5, fuse="gcca", missing=missing, weights=(1, 1, 2))).fit(partial)
        truth, found = fitted.transform(complete)[0][~third], fitted.transform(partial)[0][~third]
        errors[missing] = ((found - truth) ** 2).sum() / (truth**2).sum()
    assert errors["regression"] < 0.02
    assert errors["mean"] > 0.2


def test_wide_embeddings_take_a_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    _, views = planted(num_rows=1000)
    given = views_with(views, *(np.random.default_rng(0).random((3, 1000)) < 0.7))
    stored = Preprocessor(PreprocessorConfig(svd=5)).fit(given)
    monkeypatch.setattr("semid.tokenizers.fusion.shared_space._STORED_DIM", 40)
    sketched = Preprocessor(PreprocessorConfig(svd=5)).fit(given)
    assert np.linalg.svd(stored.basis_.T @ sketched.basis_)[1].min() > 0.999
    assert sketched.captured_ == pytest.approx(stored.captured_, rel=2e-3)
    np.testing.assert_allclose(sketched.shares_, stored.shares_, atol=5e-3)
    for options in ({"scale": "whiten"}, {"fuse": "gcca"}):
        with pytest.raises(InputError, match="60 dimensions are too many to whiten, at most 40"):
            Preprocessor(PreprocessorConfig(svd=5, **options)).fit(given)


def test_half_precision_products_capture_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = correlated(np.random.default_rng(0), 9000, 48)
    exact = Preprocessor(PreprocessorConfig(svd=8)).fit([embedding(vectors)])
    monkeypatch.setattr("semid.tokenizers.fusion.precision._TRIED_ROWS", 512)
    monkeypatch.setattr("semid.tokenizers.fusion.precision.has_half_precision", lambda: True)
    half = Preprocessor(PreprocessorConfig(svd=8)).fit([embedding(vectors)])
    assert not np.array_equal(exact.basis_, half.basis_)
    covariance = np.cov(vectors.T.astype(np.float64))
    captured = [np.trace(fitted.basis_.T @ covariance @ fitted.basis_) for fitted in (exact, half)]
    assert captured[1] > captured[0] - 1e-5 * np.trace(covariance)


@pytest.mark.parametrize("config", [PreprocessorConfig(svd=6), PreprocessorConfig(svd=6, fuse="gcca", rotate=True)])
def test_the_number_of_threads_changes_no_bit(config: PreprocessorConfig) -> None:
    _, views = planted(num_rows=2000)
    given = views_with(views, *(np.random.default_rng(0).random((3, 2000)) < 0.6))
    before, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 3):
            torch.set_num_threads(num_threads)
            found.append(Preprocessor(config).fit(given).transform(given)[0])
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[0], found[1])


def test_types_may_be_mixed() -> None:
    _, views = planted(num_rows=500)
    full = np.ones(500, bool)
    types = (np.float64, np.float16, np.float32)
    mixed = views_with([view.astype(dtype) for view, dtype in zip(views, types, strict=True)], full, full, full)
    plain = views_with([e.vectors.astype(np.float32) for e in mixed], full, full, full)
    vectors = [Preprocessor(PreprocessorConfig(svd=5)).fit(given).transform(given)[0] for given in (mixed, plain)]
    np.testing.assert_array_equal(vectors[0], vectors[1])
