from itertools import chain

import pytest
import torch

from semid.errors import InputError
from semid.tokenizers.neural.training import TrainedConfig, one_thread, train


def test_a_least_squares_problem_is_solved() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, true = torch.randn(64, 3, generator=generator), torch.tensor([1.0, -2.0, 0.5])
    weights = torch.zeros(3, requires_grad=True)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        return (inputs[rows] @ (weights - true)).square().mean()

    train([weights], loss_of, 64, TrainedConfig(steps=300, batch=16, learning_rate=0.05))
    torch.testing.assert_close(weights.detach(), true, atol=1e-3, rtol=0)


def test_batches_use_every_row_once_before_any_twice() -> None:
    seen: list[list[int]] = []
    weight = torch.zeros(1, requires_grad=True)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        seen.append(rows.tolist())
        return weight.sum()

    train([weight], loss_of, 12, TrainedConfig(steps=7, batch=4))
    assert sorted(chain(*seen[:3])) == sorted(chain(*seen[3:6])) == list(range(12))
    assert seen[:3] != seen[3:6]
    again, seen = seen, []
    train([weight], loss_of, 12, TrainedConfig(steps=7, batch=4))
    assert seen == again
    seen.clear()
    train([weight], loss_of, 3, TrainedConfig(steps=2, batch=4))
    assert [sorted(rows) for rows in seen] == [[0, 1, 2]] * 2


def test_restarts_stop_before_the_end() -> None:
    weight = torch.zeros(1, requires_grad=True)
    steps: list[int] = []
    told: list[int] = []
    train(
        [weight],
        lambda rows: weight.sum(),
        8,
        TrainedConfig(steps=205, batch=4),
        restart=lambda rows, optimiser: steps.append(len(rows)),
        progress=lambda stage, done, total: told.append(done),
    )
    assert steps == [4, 4]  # after 50 and 100 steps; 150 is too late
    assert told == [*range(10, 205, 10), 205]


def test_one_thread_is_for_the_block_alone() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


def test_mistakes_are_named() -> None:
    with pytest.raises(InputError, match="number of steps is -1"):
        TrainedConfig(steps=-1)
    with pytest.raises(InputError, match="batch is 0"):
        TrainedConfig(batch=0)
    with pytest.raises(InputError, match="learning rate is nan"):
        TrainedConfig(learning_rate=float("nan"))
    with pytest.raises(InputError, match="no device 'gpu7' here"):
        TrainedConfig(device="gpu7")
