"""Oracle: what one token sees of another, worked out pair by pair."""

from typing import Any

import pytest
import torch
from torch import Tensor

from semid.data.events import TIME_MISSING
from semid.generative.config import ActionConfig, ModelConfig, TrunkConfig
from semid.generative.layers import rotary_table, rotate
from semid.generative.trunk import Places, Trunk

HEADS = 2


def trunk(condition: tuple[str, ...] = (), **settings: Any) -> Trunk:
    torch.manual_seed(0)
    config = ModelConfig(
        width=16, heads=HEADS, kv_heads=1, trunk=TrunkConfig(**settings), action=ActionConfig(condition=condition)
    )
    made = Trunk(config, 3)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter)
    return made.eval()


@pytest.fixture
def places() -> Places:
    """Two histories and a padding token in one row."""
    start = 1_600_000_000
    return Places(
        segments=torch.tensor([[0, 0, 0, 0, 1, 1, -1]]),
        positions=torch.tensor([[0, 1, 2, 3, 0, 1, 0]]),
        times=torch.tensor([[start, start, start + 700, TIME_MISSING, start, start + 10**6, TIME_MISSING]]),
        actions=torch.tensor([[1, 0, 3, 2, 2, 1, 0]]),
        next_actions=torch.tensor([[0, 3, 2, 1, 1, 0, 0]]),
    )


@pytest.mark.parametrize("window", [0, 1, 2, 3])
def test_the_mask_is_causal_within_a_history_and_a_window(places: Places, window: int) -> None:
    mask = trunk(window=window).view(places, places).mask[0, 0]
    segments, positions = places.segments[0].tolist(), places.positions[0].tolist()
    for one in range(7):
        for other in range(7):
            back = positions[one] - positions[other]
            near = back < window if window else True
            assert bool(mask[one, other]) == (segments[one] == segments[other] and back >= 0 and near)


def test_the_bias_is_learned_of_time_and_actions(places: Places) -> None:
    made = trunk(condition=("bias",), time_bias=True)
    bias = made.view(places, places).bias[0]
    times = places.times[0].tolist()
    for one in range(7):
        for other in range(7):
            if TIME_MISSING in (times[one], times[other]):
                bucket = 32
            else:
                bucket = min((abs(times[one] - times[other]) + 1).bit_length() - 1, 31)
            pair = int(places.next_actions[0, one]) * 4 + int(places.actions[0, other])
            expected = made.time_bias.weight[bucket] + made.action_bias.weight[pair]
            torch.testing.assert_close(bias[:, one, other], expected)
    assert trunk().view(places, places).bias is None


def scores(made: Trunk, places: Places) -> Tensor:
    """Products of one query and one key at all places. (7, 7)"""
    torch.manual_seed(1)
    query, key = (vector.expand(1, 1, 7, 8) for vector in torch.randn(2, 8))
    table = made.view(places, places).table
    return (rotate(query, table) @ rotate(key, table).mT)[0, 0]


def shifted(places: Places, **by: int) -> Places:
    values = dict(vars(places))
    for name, step in by.items():
        moved = values[name] + step
        values[name] = torch.where(values[name] == TIME_MISSING, TIME_MISSING, moved) if name == "times" else moved
    return Places(**values)


def test_rotary_by_time_depends_on_the_time_between_alone(places: Places) -> None:
    by_time, by_order, both = (trunk(positions=name) for name in ("time", "order", "both"))
    before = {name: scores(made, places) for name, made in (("time", by_time), ("order", by_order), ("both", both))}
    timed = places.times[0] != TIME_MISSING
    pairs = timed[:, None] & timed[None, :]
    later = shifted(places, times=12_345_678)
    torch.testing.assert_close(scores(by_time, later)[pairs], before["time"][pairs], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores(both, later)[pairs], before["both"][pairs], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(scores(by_order, later), before["order"])
    assert torch.equal(scores(by_time, shifted(places, positions=3)), before["time"])
    torch.testing.assert_close(scores(both, shifted(places, positions=3)), before["both"], rtol=1e-3, atol=1e-3)
    # 0 and 1 share their time, 1 and 2 lie 700 seconds apart.
    assert before["time"][1, 0].item() == pytest.approx(before["time"][0, 0].item(), abs=1e-5)
    assert abs(before["time"][2, 1] - before["time"][1, 1]) > 1e-3
    assert abs(before["both"][1, 0] - before["both"][0, 0]) > 1e-3


def test_the_longest_rotary_period_tells_weeks_and_the_shortest_seconds() -> None:
    made = trunk(positions="time")
    times = torch.tensor([[1_600_000_000, 1_600_000_015, 1_600_000_000 + 15 * 86_400]])
    zeros = torch.zeros_like(times)
    cos, sin = made._table(Places(zeros, zeros, times, zeros, zeros))
    angle = torch.atan2(sin, cos)[0, 0] / (2 * torch.pi)
    turned = (angle - angle[0]) % 1
    assert turned[1, 0].item() == pytest.approx(0.25, abs=1e-4)  # a quarter of a minute
    assert turned[2, 3].item() == pytest.approx(0.25, abs=1e-4)  # a quarter of two months


def test_learned_positions_are_added_and_order_is_seen_by_nothing_else(places: Places) -> None:
    torch.manual_seed(2)
    x = torch.randn(1, 7, 16)
    made = trunk(positions="learned")
    nothing = trunk(positions="none")
    nothing.load_state_dict({key: value for key, value in made.state_dict().items() if key != "places.weight"})
    expected = nothing(x + made.places(places.positions), places)
    torch.testing.assert_close(made(x, places), expected)
    assert made.view(places, places).table is None
    torch.testing.assert_close(rotary_table(places.positions, 8)[0], trunk().view(places, places).table[0])
