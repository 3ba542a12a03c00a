import numpy as np
import pytest
import torch

from semid.data.features import Embedding
from semid.tokenizers.fusion import precision
from semid.tokenizers.fusion.moments import provisional_centres
from semid.tokenizers.fusion.precision import half_suffices, missed_energy
from semid.tokenizers.fusion.reading import RowSource
from semid.tokenizers.fusion.workers import Workers


def test_missed_energy_by_hand() -> None:
    exact, turned = np.diag([5.0, 3, 2]), np.diag([5.0, 1, 2])
    with Workers() as workers:
        assert missed_energy(exact, turned, 2, workers) == pytest.approx((3 - 2) / 10)
        assert missed_energy(exact, exact, 2, workers) == pytest.approx(0)


def decide(vectors: np.ndarray, count: int) -> bool:
    source = RowSource([Embedding("a", vectors, np.ones(len(vectors), bool))])
    with Workers() as workers:
        shifts, _ = provisional_centres(source, workers)
        return half_suffices(source, shifts, np.ones(1), count, workers)


def test_half_products_are_taken_where_they_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_TRIED_ROWS", 512)
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((9000, 40)) * 0.8 ** np.arange(40)).astype(np.float32)
    monkeypatch.setattr(precision, "has_half_precision", lambda: True)
    assert decide(vectors, 8)
    assert not decide(vectors[:4000], 8)  # too few rows to gain by it
    monkeypatch.setattr(precision, "TOLERANCE", -1.0)
    assert not decide(vectors, 8)
    monkeypatch.setattr(precision, "TOLERANCE", 1.0)
    monkeypatch.setattr(precision, "has_half_precision", lambda: False)
    assert not decide(vectors, 8)


def test_half_products_are_refused_where_rounding_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first column has more energy, but rounds down everywhere; the second rounds up in three rows of four."""
    monkeypatch.setattr(precision, "_TRIED_ROWS", 512)
    monkeypatch.setattr(precision, "has_half_precision", lambda: True)
    rows = np.arange(9000)
    signs = np.stack([1 - 2 * (rows % 2), 1 - 2 * (rows // 2 % 2)], axis=1)
    sizes = np.stack([np.full(9000, 1 + 2**-8 - 2**-14), np.where(rows // 4 % 4, 1 + 2**-8 + 2**-14, 1)], axis=1)
    source = RowSource([Embedding("a", (signs * sizes).astype(np.float32), np.ones(9000, bool))])
    with Workers() as workers:
        assert not half_suffices(source, [torch.zeros(2)], np.ones(1), 1, workers)
        assert half_suffices(source, [torch.zeros(2)], np.ones(1), 2, workers)
