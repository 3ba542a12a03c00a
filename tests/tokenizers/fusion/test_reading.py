from pathlib import Path

import numpy as np
import pytest
import torch

from semid.data.features import Embedding
from semid.errors import InputError
from semid.tokenizers.fusion import reading
from semid.tokenizers.fusion.reading import RowSource, spread_rows
from semid.tokenizers.fusion.workers import Workers


def everything(source: RowSource, means: list[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    with Workers() as workers:
        parts = [(part.numpy().copy(), valid) for part, valid in source.centred(means, workers)]
    return np.concatenate([part for part, _ in parts]), np.concatenate([valid for _, valid in parts])


@pytest.fixture
def given() -> list[Embedding]:
    rng = np.random.default_rng(0)
    wide, narrow = rng.standard_normal((700, 6)).astype(np.float16), rng.standard_normal((700, 2))
    return [Embedding("wide", wide, rng.random(700) < 0.7), Embedding("narrow", narrow, rng.random(700) < 0.5)]


@pytest.mark.parametrize(
    "rows", [None, np.arange(700), np.arange(100, 640), np.array([0, 3, 300, 301, 302, 699]), np.arange(699, -1, -1)]
)
def test_rows_side_by_side(given: list[Embedding], rows: np.ndarray | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_BLOCK_BYTES", 1)
    means = [torch.full((6,), 0.5), torch.full((2,), -1.0)]
    found, valid = everything(RowSource(given, rows), means)
    chosen = np.arange(700) if rows is None else rows
    np.testing.assert_array_equal(valid, np.stack([e.valid for e in given], axis=1)[chosen])
    parts = [
        np.where(e.valid[:, None], e.vectors.astype(np.float32) - mean.numpy(), 0)
        for e, mean in zip(given, means, strict=True)
    ]
    np.testing.assert_array_equal(found, np.concatenate(parts, axis=1)[chosen])


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", "i2", "u1"])
def test_types_of_numbers(dtype: str) -> None:
    vectors = (np.arange(30).reshape(10, 3) * 3).astype(dtype)
    found, _ = everything(RowSource([Embedding("a", vectors, np.ones(10, bool))]), [torch.zeros(3)])
    np.testing.assert_array_equal(found, np.arange(30, dtype=np.float32).reshape(10, 3) * 3)


@pytest.mark.parametrize("dtype", ["c8", "U3", "V2", "?"])
def test_what_is_no_number(dtype: str) -> None:
    with pytest.raises(InputError, match=r"'a' holds .*: give floating-point numbers"):
        RowSource([Embedding("a", np.zeros((3, 2), dtype), np.ones(3, bool))])


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_mapped_files_are_read_and_changes_kept(tmp_path: Path, mode: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((900, 40)).astype(np.float32)
    np.save(tmp_path / "v.npy", vectors)
    mapped = np.load(tmp_path / "v.npy", mmap_mode=mode)  # type: ignore[call-overload]
    if mode != "r":
        mapped[7] = vectors[7] = 3
    for rows in (None, np.arange(0, 900, 7)):
        source = RowSource([Embedding("a", mapped, np.ones(900, bool))], rows)
        found, _ = everything(source, [torch.zeros(40)])
        np.testing.assert_array_equal(found, vectors if rows is None else vectors[rows])
    part = RowSource([Embedding("a", mapped[100:], np.ones(800, bool))])
    np.testing.assert_array_equal(everything(part, [torch.zeros(40)])[0], vectors[100:])


def test_pages_are_let_go_of(tmp_path: Path) -> None:
    """Reading 64 MiB of a mapped file leaves next to nothing of it in memory, at any time."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc to see what is resident")

    def mapped_kib() -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith("RssFile"))
        return int(line.split()[1])

    np.save(tmp_path / "v.npy", np.ones((1 << 17, 128), np.float32))
    mapped = np.load(tmp_path / "v.npy", mmap_mode="r")
    source = RowSource([Embedding("a", mapped, np.ones(1 << 17, bool))])
    before, most = mapped_kib(), 0
    with Workers() as workers:
        for _ in source.centred([torch.zeros(128)], workers):
            most = max(most, mapped_kib())
    assert most - before < 16 << 10


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [None, np.array([1, 5, 600, 650, 699])])
def test_bad_rows_are_named(bad: float, rows: np.ndarray | None) -> None:
    vectors = np.ones((700, 3), np.float32)
    vectors[[600, 650], 1] = bad
    source = RowSource([Embedding("a", vectors, np.ones(700, bool))], rows)
    with pytest.raises(InputError, match="'a' has NaN or infinity in row 600: "):
        everything(source, [torch.zeros(3)])
    hidden = Embedding("a", vectors, ~np.isin(np.arange(700), [600, 650]))
    assert np.isfinite(everything(RowSource([hidden], rows), [torch.zeros(3)])[0]).all()


def test_large_but_finite_numbers_pass() -> None:
    vectors = np.full((300, 4), 3e38, np.float32)
    found, _ = everything(RowSource([Embedding("a", vectors, np.ones(300, bool))]), [torch.zeros(4)])
    np.testing.assert_array_equal(found, vectors)
    with pytest.raises(InputError, match="row 0"):
        everything(RowSource([Embedding("a", np.full((3, 4), 1e200), np.ones(3, bool))]), [torch.zeros(4)])


def test_rows_spread_over_the_catalogue() -> None:
    valid = np.arange(100_000) % 3 != 0
    many = Embedding("many", np.zeros((100_000, 1), np.float16), valid)
    rare = Embedding("rare", np.zeros((100_000, 1), np.float16), np.arange(100_000) == 77_777)
    rows = spread_rows(RowSource([many]), 0, 1024)
    assert valid[rows].all()
    assert 600 < len(rows) <= 1024
    assert rows[0] < 16
    assert rows[-1] > 99_980
    assert np.diff(rows).max() < 2000
    np.testing.assert_array_equal(spread_rows(RowSource([many, rare]), 1, 1024), [77_777])
    odd = np.arange(1, 100_000, 2)
    np.testing.assert_array_equal(spread_rows(RowSource([rare], odd), 0, 8), [77_777])
    with pytest.raises(InputError, match="'rare' has no valid row among the 3 to fit on"):
        spread_rows(RowSource([rare], np.arange(3)), 0, 8)
