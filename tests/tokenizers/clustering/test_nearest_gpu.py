"""Assignment of tensors against float64 brute force: plain torch on the processor, and the Triton kernel."""

import importlib.util
import os

import numpy as np
import pytest
import torch

from semid.tokenizers.clustering.nearest_gpu import PreparedTensors, assign_tensors, candidates, padded_width

_HAS_GPU = torch.cuda.is_available()
_DEVICE = "cuda" if _HAS_GPU else "cpu"

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="the kernel needs Triton, which is not installed"
)


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    """Without a GPU the kernel runs in Triton's interpreter; this must be known before the kernel is defined."""
    if not _HAS_GPU:
        monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")


def _mixture(num_vectors, width, seed=0, spread=0.5):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(12, width))
    return (middles[rng.integers(12, size=num_vectors)] + spread * rng.normal(size=(num_vectors, width))).astype(
        np.float32
    )


def _brute(vectors, centroids):
    squared = ((vectors[:, None].astype(np.float64) - centroids[None]) ** 2).sum(-1)
    return squared.argmin(1), squared


def _sets():
    rng = np.random.default_rng(7)
    plain = _mixture(500, 24)
    grid = rng.integers(-2, 3, size=(400, 5)).astype(np.float32)
    outlier = plain.copy()
    outlier[3] *= 1e12
    near = np.repeat(plain[:40], 2, axis=0)
    near[1::2] *= np.float32(1 + 1e-6)
    lane = np.concatenate([plain[:64], plain[:64] * np.float32(1 + 1e-6)])
    bit = np.repeat(plain[:40], 2, axis=0)
    bit[::2, 5] = np.nextafter(bit[::2, 5], np.float32(np.inf))
    return {
        "mixture": (plain, plain[:70]),
        "ties on a grid": (grid, grid[:100]),
        "equal centroids": (plain, np.repeat(plain[:5], 3, axis=0)),
        "centroids 1e-6 apart": (plain, near),
        "the same in one lane": (plain, lane),
        "one bit apart": (plain[::-1] * 10, bit),
        "far from the origin": (plain + 1000, plain[:70] + 1000),
        "tiny": (plain * np.float32(1e-25), plain[:70] * np.float32(1e-25)),
        "large": (plain * np.float32(1e15), plain[:70] * np.float32(1e15)),
        "a far vector": (outlier, plain[:70]),
        "a far centroid": (plain, outlier[:70]),
        "vectors much smaller than centroids": (plain * np.float32(1e-7), plain[:70]),
        "constant": (np.full((30, 4), 3, np.float32), np.full((6, 4), 3, np.float32)),
        "more centroids than lanes": (plain, _mixture(333, 24, seed=5)),
        "one dimension": (plain[:, :1], plain[:90, :1]),
        "wide": (_mixture(150, 200), _mixture(80, 200, seed=3)),
    }


_SETS = _sets()


@pytest.fixture(params=[False, pytest.param(True, marks=needs_triton)], ids=["torch", "triton"])
def kernel(request):
    return request.param


@pytest.mark.parametrize("name", list(_SETS))
def test_codes_are_those_of_brute_force(name, kernel):
    vectors, centroids = _SETS[name]
    expected, _ = _brute(vectors, centroids)
    on_device = [torch.from_numpy(points).to(_DEVICE) for points in (vectors, centroids)]
    codes = PreparedTensors(*on_device, kernel=kernel).assign(on_device[1])
    assert codes.dtype == torch.int32
    assert np.array_equal(codes.cpu().numpy(), expected)


def test_prepared_for_other_centroids(kernel):
    vectors, centroids = _SETS["mixture"]
    tensors = torch.from_numpy(vectors).to(_DEVICE)
    prepared = PreparedTensors(tensors, tensors[:3] * 5 + 9, kernel=kernel)
    for moved in (centroids, centroids * 30, centroids[:2] - 100):
        assert np.array_equal(
            prepared.assign(torch.from_numpy(moved).to(_DEVICE)).cpu().numpy(), _brute(vectors, moved)[0]
        )


def test_distances_and_blocks(monkeypatch):
    vectors, centroids = _SETS["mixture"]
    expected, squared = _brute(vectors, centroids)
    for elements in (1 << 27, 1000):
        monkeypatch.setattr("semid.tokenizers.clustering.nearest_gpu._BLOCK_ELEMENTS", elements)
        monkeypatch.setattr("semid.tokenizers.clustering.nearest_gpu._TILE_ELEMENTS", elements)
        codes, distances = assign_tensors(
            torch.from_numpy(vectors).to(_DEVICE), torch.from_numpy(centroids).to(_DEVICE)
        )
        assert np.array_equal(codes.cpu().numpy(), expected)
        assert np.allclose(distances.cpu().numpy(), squared.min(1), rtol=1e-5, atol=1e-10)


def test_one_centroid_and_no_vectors():
    codes, distances = assign_tensors(torch.ones(3, 2), torch.zeros(1, 2))
    assert codes.tolist() == [0, 0, 0]
    assert distances.tolist() == [2, 2, 2]
    codes, distances = assign_tensors(torch.ones(0, 2), torch.zeros(4, 2))
    assert codes.shape == distances.shape == (0,)


@pytest.mark.parametrize("name", ["mixture", "far from the origin", "a far centroid"])
def test_window_bounds_every_value(name):
    """Twice the error bound of the proof: measured errors of S against float64 must be within half of it."""
    vectors, centroids = (torch.from_numpy(points) for points in _SETS[name])
    prepared = PreparedTensors(vectors, centroids, kernel=False)
    screen = prepared._screen(centroids)
    values = (
        screen.offset[:, None]
        + screen.ratio[:, None] * screen.halves
        - screen.rows.float() @ screen.centroids.float().T
    )
    assert bool((values > 0).all())
    # T in float64, in the scale of each row
    shift, moved = prepared._shift.double(), centroids.double() - prepared._shift.double()
    centroid_scale = prepared._scale.double() / screen.ratio.double()
    scaled = (vectors.double() - shift) * prepared._scale.double()[:, None]
    exact = (
        screen.ratio.double()[:, None] * (moved * centroid_scale[0]).square().sum(1) / 2
        - scaled @ (moved * centroid_scale[0]).T
    )
    error = (values.double() - screen.offset.double()[:, None] - exact).abs().amax(1)
    assert bool((error <= screen.window.double() / 2).all())
    assert float((error / (screen.window.double() / 2)).amax()) > 0.02  # and not much wider than need be


def test_screen_leaves_few_candidates():
    vectors, centroids = (torch.from_numpy(_mixture(number, 64, seed)) for number, seed in ((2000, 0), (256, 1)))
    _, rows, _ = candidates(PreparedTensors(vectors, centroids, kernel=False)._screen(centroids))
    assert len(rows.unique()) < 0.1 * len(vectors)


@needs_triton
@pytest.mark.parametrize(
    "name", ["mixture", "ties on a grid", "more centroids than lanes", "the same in one lane", "wide"]
)
def test_kernel_finds_the_candidates_of_the_reference(name):
    from semid.tokenizers.clustering.nearest_triton import KEPT, fused_candidates

    vectors, centroids = (torch.from_numpy(points).to(_DEVICE) for points in _SETS[name])
    screen = PreparedTensors(vectors, centroids, kernel=True)._screen(centroids)
    kept, more = fused_candidates(screen)
    codes, rows, others = candidates(screen)
    expected = [{int(code)} for code in codes]
    for row, other in zip(rows.tolist(), others.tolist(), strict=True):
        expected[row].add(other)
    assert kept.shape == (len(vectors), KEPT)
    for row, incomplete in enumerate(more.tolist()):
        found = [code for code in kept[row].tolist() if code >= 0]
        assert len(set(found)) == len(found)
        assert incomplete or expected[row] <= set(found)
    assert more.float().mean() < (0.2 if name in ("mixture", "more centroids than lanes", "wide") else 1.01)


def test_padded_width():
    assert [padded_width(width) for width in (1, 16, 17, 100, 128, 129, 384)] == [16, 16, 32, 128, 128, 192, 384]
