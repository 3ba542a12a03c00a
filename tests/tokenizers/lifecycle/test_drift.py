import json

import numpy as np
import pytest

from semid.errors import InputError
from semid.tokenizers.lifecycle.drift import Coded, DriftConfig, measure_drift
from semid.tokenizers.lifecycle.drift_report import DriftReport
from semid.tokenizers.lifecycle.energy import Energy
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

CONFIG = RQKMeansConfig(levels=2, codes=16, rounds=0, hartigan="never", beam=1, iterations=10)
CENTRES = np.random.default_rng(99).standard_normal((40, 8))


def drawn(num_items: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (CENTRES[rng.integers(40, size=num_items)] + 0.4 * rng.standard_normal((num_items, 8))).astype(np.float32)


def drift(old: np.ndarray, new: np.ndarray, config: DriftConfig | None = None, **changes: object) -> DriftReport:
    vectors = np.concatenate([old, new])
    quantiser = RQKMeans(CONFIG).fit(old)
    facts: dict[str, object] = {
        "vectors": vectors,
        "known": np.ones(len(vectors), bool),
        "codes": quantiser.encode(vectors),
        "is_new": np.arange(len(vectors)) >= len(old),
        **changes,
    }
    return measure_drift(Coded(**facts), quantiser, lambda: RQKMeans(CONFIG), config or DriftConfig())


def test_items_of_the_same_kind_are_fine_though_their_error_is_higher() -> None:
    """200 old items for 2 × 16 codes: codes fit their own items, and a new item's error is a fifth above theirs."""
    found = drift(drawn(200, 0), drawn(200, 1))
    assert found.old is not None
    assert found.new is not None
    assert found.new.relative_error > 1.15 * found.old.relative_error
    assert found.verdict == "fine"
    assert not found.refit
    assert found.error_interval is not None
    assert found.error_interval[0] < 1 < found.error_interval[1]


def test_no_false_alarm_in_twenty_trials() -> None:
    assert sum(drift(drawn(150, 2 * trial), drawn(150, 2 * trial + 1)).refit for trial in range(20)) <= 1


def test_a_new_kind_of_item_calls_for_a_refit() -> None:
    far = drawn(60, 1) + 3
    found = drift(drawn(800, 0), far)
    assert found.refit
    assert found.error_interval is not None
    assert found.error_interval[0] > 1.05
    assert any("error of new items" in reason for reason in found.reasons)
    assert any("far from any code" in reason for reason in found.reasons)


def test_few_strange_items_among_many() -> None:
    """A fifth of the new items is unlike any old one: the tail tells, whatever rise of the mean is let pass."""
    new = drawn(600, 1)
    new[:120] += 2
    found = drift(drawn(800, 0), new, DriftConfig(tolerance=10.0))
    assert found.refit
    assert found.far == pytest.approx(0.2, abs=0.04)
    assert [reason for reason in found.reasons if "far from any code" in reason] == list(found.reasons)


def test_too_few_new_items_give_no_verdict() -> None:
    assert not drift(drawn(800, 0), drawn(9, 1) + 9).refit
    assert "too few" in drift(drawn(800, 0), drawn(9, 1) + 9).reasons[0]
    nothing = drift(drawn(100, 0), drawn(0, 1))
    assert (nothing.verdict, nothing.new) == ("fine", None)


def test_prefixes_that_too_many_want() -> None:
    """16 codes for each prefix of one level: new items that crowd two of 16 prefixes do not fit there."""
    old, new = drawn(160, 0), drawn(200, 1)
    quantiser = RQKMeans(CONFIG).fit(old)
    wanted = quantiser.encode(new)[:, 0]
    crowd = np.concatenate([new[wanted == wanted[0]]] * 10)[:60]
    found = drift(old, crowd)
    first = quantiser.encode(np.concatenate([old, crowd]))[:, 0]
    crowded = np.bincount(first)[first] > 16
    assert found.old is not None
    assert found.new is not None
    assert (found.old.crowded, found.new.crowded) == (crowded[:160].mean(), crowded[160:].mean())
    assert found.new.crowded == 1
    assert found.refit
    assert any("more items want the prefix than it has codes" in reason for reason in found.reasons)


def test_items_in_another_prefix_are_counted_but_no_reason() -> None:
    """Who comes late finds codes taken, drift or not."""
    old, new = drawn(400, 0), drawn(200, 1)
    codes = RQKMeans(CONFIG).fit(old).encode(np.concatenate([old, new]))
    codes[400:500, 0] = (codes[400:500, 0] + 1) % 16
    codes[:20, 0] = (codes[:20, 0] + 1) % 16
    found = drift(old, new, codes=codes)
    assert found.old is not None
    assert found.new is not None
    assert (found.old.displaced, found.new.displaced) == (0.05, 0.5)
    assert not found.refit


def test_figures_of_the_groups() -> None:
    old, new = drawn(300, 0), drawn(100, 1)
    new[:10] = new[0]
    has = np.arange(400) % 2 == 0
    found = drift(old, new, coverage={"a": has, "b": ~has | (np.arange(400) >= 300)})
    assert found.old is not None
    assert found.new is not None
    assert (found.old.items, found.new.items) == (300, 100)
    assert found.old.coverage == {"a": 0.5, "b": 0.5}
    assert found.new.coverage == {"a": 0.5, "b": 1.0}
    quantiser = RQKMeans(CONFIG).fit(old)
    nearest = [tuple(row) for row in quantiser.encode(np.concatenate([old, new])).tolist()]
    assert found.new.colliding == np.mean([nearest.count(code) > 1 for code in nearest[300:]])
    assert found.old.colliding == np.mean([nearest[:300].count(code) > 1 for code in nearest[:300]])
    variance = old.var(axis=0, dtype=np.float64).sum()
    error = ((new - quantiser.decode(quantiser.encode(new))) ** 2).sum(axis=1).mean()
    assert found.new.relative_error == pytest.approx(error / variance, rel=1e-5)
    counts = np.bincount(quantiser.encode(new)[:, 0], minlength=16)
    share = counts[counts > 0] / 100
    assert found.new.perplexity[0] == pytest.approx(np.prod(share**-share))


def test_items_without_embedding_say_nothing() -> None:
    old, new = drawn(400, 0), drawn(100, 1)
    new[50:] = 1e3
    known = np.arange(500) < 450
    found = drift(old, new, known=known)
    assert not found.refit
    assert found.new is not None
    assert found.new.known == 50


def test_too_few_old_items_to_tell() -> None:
    with pytest.raises(InputError, match=r"20 items .* 16 codes .* at least 50 are needed"):
        drift(drawn(20, 0), drawn(50, 1))


def test_exact_codes_leave_nothing_to_compare() -> None:
    found = drift(np.tile(CENTRES[:4].astype(np.float32), (50, 1)), np.tile(CENTRES[:4].astype(np.float32), (10, 1)))
    assert (found.verdict, found.error_ratio) == ("fine", None)


def test_energy_that_the_components_do_not_hold() -> None:
    rng = np.random.default_rng(0)
    whole = rng.gamma(5.0, size=(2, 300))
    held = Energy(whole=whole[0], held=0.9 * whole[0])
    lost = Energy(whole=whole[1], held=rng.uniform(0.6, 0.8, 300) * whole[1])
    old, new = drawn(400, 0), drawn(300, 1)
    found = drift(old, new, energies=(held, lost))
    assert found.refit
    assert "of the energy of new items, of unseen old ones 90.0 %" in found.reasons[0]
    assert found.new is not None
    assert found.new.captured == pytest.approx(0.7, abs=0.01)
    assert not drift(old, new, energies=(held, held)).refit
    assert not drift(old, new, DriftConfig(lost=0.25), energies=(held, lost)).refit


def test_report_survives_json_and_shows_itself() -> None:
    found = drift(drawn(300, 0), drawn(100, 1), coverage={"a": np.ones(400, bool)})
    assert DriftReport.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert ("has a", "100.0 %", "100.0 %") in found.group_rows()
    assert found.summary_rows()[0] == ("verdict", "fine")
    nothing = drift(drawn(100, 0), drawn(0, 1))
    assert DriftReport.from_dict(json.loads(json.dumps(nothing.to_dict()))) == nothing
    assert len(nothing.group_rows()) == 1


def test_settings_are_checked() -> None:
    with pytest.raises(InputError, match="tolerance"):
        DriftConfig(tolerance=-0.1)
    with pytest.raises(InputError, match="confidence"):
        DriftConfig(confidence=1.0)
