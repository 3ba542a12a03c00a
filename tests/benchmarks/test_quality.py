"""What the quality tables say of several seeds, by hand."""

import argparse

import pytest


@pytest.fixture
def quality(modules):
    return modules("quality")


def runs(*figures: tuple[float, float]) -> list[dict[str, object]]:
    return [{"modes": {"ann": {"NDCG@10": ann}, "hybrid": {"NDCG@10": hybrid}}} for ann, hybrid in figures]


def test_gains_are_paired_by_seed(quality) -> None:
    """Differences .1, .1 and .1 are sure, though the figures themselves are far apart."""
    gain = quality.gains(runs((0.1, 0.2), (0.5, 0.6), (0.9, 1.0)))
    assert list(gain) == ["ann"]
    assert gain["ann"] == pytest.approx((0.1, 0.0))


def test_a_metric_that_some_seed_has_not_is_absent(quality) -> None:
    found = runs((0.1, 0.2), (0.3, 0.4))
    found[0]["modes"]["ann"]["ColdHitRate@10"] = 1.0
    summary = quality.summarise(found)
    assert list(summary["ann"]) == ["NDCG@10"]
    assert summary["hybrid"]["NDCG@10"][0] == pytest.approx(0.3)


def test_rivals_are_named_or_none(quality) -> None:
    assert quality.names_of_rivals("none") == ()
    assert quality.names_of_rivals("tiger") == ("tiger",)
    with pytest.raises(argparse.ArgumentTypeError, match="use none or some of sasrec,tiger"):
        quality.names_of_rivals("magic")
