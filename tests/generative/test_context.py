"""Oracle: embeddings looked up one by one."""

from typing import Any

import pytest
import torch

from semid.data.dataset import Dataset
from semid.data.events import TIME_MISSING
from semid.generative.catalogue import Catalogue
from semid.generative.config import InputConfig, ModelConfig
from semid.generative.context import ContextEncoder, Fourier
from semid.generative.histories import BatchBuilder, TokenBatch, training_segments

WIDTH = 8


@pytest.fixture
def batch(rich: Dataset) -> TokenBatch:
    segments = training_segments(rich, 6, profile=False)
    builder = BatchBuilder(segments, profile=False)
    return builder.build([[g] for g in range(len(segments))], 6)


def made(catalogue: Catalogue, *features: str, **inputs: Any) -> ContextEncoder:
    torch.manual_seed(0)
    config = ModelConfig(width=WIDTH, features=("id", *features), inputs=InputConfig(**inputs))
    encoder = ContextEncoder(catalogue, config)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    return encoder.eval()


def test_context_is_the_action_and_the_columns_of_the_clock(catalogue: Catalogue, batch: TokenBatch) -> None:
    both = made(catalogue, "action", "time", "session")
    action, clock = both(batch)
    torch.testing.assert_close(action, both.action.tables[0].weight[batch.actions])
    tables = [table.weight for table in both.clock.tables]
    assert len(tables) == batch.clock.shape[-1] == 12
    expected = sum(table[batch.clock[..., column]] for column, table in enumerate(tables))
    torch.testing.assert_close(clock, expected)
    only = made(catalogue, "action")
    assert (only.clock, only.fourier, len(only)) == (None, None, 1)
    assert made(catalogue)(batch) == []


def test_the_clock_is_dropped_while_training_only(catalogue: Catalogue, batch: TokenBatch) -> None:
    encoder = made(catalogue, "action", "time", "session", clock_dropout=0.5)
    assert (encoder(batch)[1] != 0).any(-1).all()
    action, clock = encoder.train()(batch)
    assert (action != 0).any(-1).all()
    gone = (clock == 0).all(-1).float().mean()
    assert 0.3 < gone < 0.7


def test_fourier_features_begin_as_large_as_an_embedding() -> None:
    torch.manual_seed(0)
    times = 1_600_500_000 + torch.arange(2000)[None] * 2477
    assert Fourier(64, origin=1_600_500_000)(times).std().item() == pytest.approx(0.02, rel=0.2)


def test_fourier_features_follow_the_formula_with_learnable_periods() -> None:
    torch.manual_seed(0)
    encoder, day, origin = Fourier(WIDTH, origin=1_600_500_000), 86_400, 1_600_500_000
    periods = 56 * day / encoder.turns
    assert periods.min() == pytest.approx(3600)
    assert periods.max() == pytest.approx(56 * day)
    assert {float(day), 7.0 * day} <= set(periods.tolist())
    torch.nn.init.normal_(encoder.change)
    torch.nn.init.normal_(encoder.out.weight)
    times = torch.tensor([[origin, origin + 5 * day + 77, TIME_MISSING, 1_500_000_000]])

    def expected(change: torch.Tensor) -> torch.Tensor:
        periods = 56 * day / (encoder.turns + change)
        angle = 2 * torch.pi * (times[..., None].double() - origin) / periods
        basis = torch.cat([angle.sin(), angle.cos()], dim=-1).float()
        encoded = basis @ encoder.out.weight.T
        return encoded.where(times[..., None] != TIME_MISSING, 0.0)

    change = encoder.change.detach().double().requires_grad_()
    torch.testing.assert_close(encoder(times), expected(change), rtol=1e-3, atol=1e-4)
    expected(change).sum().backward()
    encoder(times).sum().backward()
    torch.testing.assert_close(encoder.change.grad.double(), change.grad, rtol=1e-3, atol=1e-3)
    assert encoder.change.grad.abs().max() > 0.01
