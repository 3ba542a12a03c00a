"""The training loop: mini-batches, Adam with a falling rate, dead codes revived, the same for a seed.

On the CPU it runs on one thread: several would add up parts of a matrix product in an order of their own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import cos, pi

import torch
from torch import Tensor

from semid.errors import InputError
from semid.progress import Progress
from semid.tokenizers.checks import check_at_least, codes_per_level

# Steps between two looks for dead codes; none late in the training, when a new code could no longer settle.
_RESTART_EVERY = 50
_RESTART_UNTIL = 0.7
_WARM_UP_STEPS = 20
_TELL_EVERY = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainedConfig:
    """What all trained quantisers share.

    Attributes:
        levels: L.
        codes: K, one for all levels or one a level.
        seed: of every random choice.
        steps: mini-batches to train on; 0 leaves the start as it is.
        batch: vectors of a mini-batch, at most all.
        learning_rate: of Adam at its height; it rises for a few steps and falls along a cosine.
        device: where to train: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
    """

    levels: int = 3
    codes: int | tuple[int, ...] = 256
    seed: int = 0
    steps: int = 3000
    batch: int = 256
    learning_rate: float = 2e-3
    device: str = "auto"

    def __post_init__(self) -> None:
        codes_per_level(self.levels, self.codes)
        check_at_least("number of steps", self.steps, 0)
        check_at_least("batch", self.batch, 1)
        if not self.learning_rate > 0:
            raise InputError(f"The learning rate is {self.learning_rate} but must be above 0.")
        chosen_device(self.device)

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return codes_per_level(self.levels, self.codes)


def chosen_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        InputError: there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError):
        raise InputError(f"There is no device {name!r} here: use cpu or auto.") from None


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def train(
    parameters: list[Tensor],
    loss_of: Callable[[Tensor], Tensor],
    num_vectors: int,
    config: TrainedConfig,
    *,
    restart: Callable[[Tensor, torch.optim.Optimizer], None] | None = None,
    progress: Progress | None = None,
) -> None:
    """Lower a loss over mini-batches.

    Args:
        parameters: what to change, in place.
        loss_of: the loss of a batch, given its (B,) rows on the CPU.
        num_vectors: N; rows are drawn from 0..N-1 without replacement until all are used, then anew.
        config: how.
        restart: told the rows of the present batch and the optimiser, now and then, to revive what is unused.
        progress: told the step.
    """
    optimiser = torch.optim.Adam(parameters, lr=config.learning_rate)
    batches = _batches(num_vectors, min(config.batch, num_vectors), config.seed)
    for step in range(config.steps):
        rows = next(batches)
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config.steps)
        with one_thread():
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss_of(rows))
            optimiser.step()
            if restart is not None and (step + 1) % _RESTART_EVERY == 0 and step < _RESTART_UNTIL * config.steps:
                restart(rows, optimiser)
        if progress is not None and ((step + 1) % _TELL_EVERY == 0 or step + 1 == config.steps):
            progress("train", step + 1, config.steps)


def _rate(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (0.01 + 0.99 * (1 + cos(pi * step / steps)) / 2)


def _batches(num_vectors: int, batch: int, seed: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(num_vectors, generator=generator)
        yield from (order[first : first + batch] for first in range(0, num_vectors - batch + 1, batch))
