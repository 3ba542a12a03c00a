"""FSQ: an auto-encoder whose bounded latents round to a fixed grid; no codebook to train, none to collapse.

Finite scalar quantisation (arXiv 2309.15505). Level l has coordinates of its own whose values multiply to K_l.
Encoder and decoder are linear maps plus MLPs that start at zero: principal axes bounded by a tanh, the most telling
ones at the first level, and least squares back. Without training they are all there is.
"""

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor, nn

from semid.errors import InputError
from semid.progress import Progress
from semid.tokenizers.checks import check_at_least
from semid.tokenizers.neural.autoencoder import AutoEncoder, NeuralQuantiser
from semid.tokenizers.neural.grid import GridCodebooks, grid_of
from semid.tokenizers.neural.networks import Around, Mlp
from semid.tokenizers.neural.training import TrainedConfig, one_thread, train

# tanh(0.8 x) is within .02 of 2 Φ(x) − 1, so that normal coordinates fill the cells alike.
_SLOPE = 0.8


@dataclass(frozen=True, kw_only=True, slots=True)
class FSQConfig(TrainedConfig):
    """How to train; further attributes in :class:`TrainedConfig`.

    Attributes:
        grid: values of each coordinate of a level, whose product is K; None to choose, such as 8, 8, 4 for 256.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    """

    grid: tuple[int, ...] | None = None
    hidden: tuple[int, ...] = (512, 256, 128)

    def __post_init__(self) -> None:
        TrainedConfig.__post_init__(self)
        check_at_least("width of a hidden layer", min(self.hidden, default=1), 1)
        if self.grid is not None:
            check_at_least("number of values of a coordinate", min(self.grid, default=1), 2)
        for num_codes in self.num_codes:
            if self.grid is not None and prod(self.grid) != num_codes:
                raise InputError(
                    f"The grid {'x'.join(map(str, self.grid))} has {prod(self.grid)} points but a level has "
                    f"{num_codes} codes: make them equal."
                )
        if not any(self.grids):
            raise InputError("A grid needs a level with at least 2 codes.")

    @property
    def grids(self) -> list[tuple[int, ...]]:
        """Values of each coordinate, level by level."""
        return [self.grid or grid_of(num_codes) for num_codes in self.num_codes]


class Bounded(nn.Module):
    """The tanh of a network's output."""

    def __init__(self, network: Around) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, D) to (B, d) within (−1, 1)."""
        return torch.tanh(self.network(inputs))


class FSQ(NeuralQuantiser):
    """Finite scalar quantiser.

    Args:
        config: how to train.
    """

    config: FSQConfig

    def __init__(self, config: FSQConfig) -> None:
        self.config = config

    def _network(self, dim: int, generator: torch.Generator) -> AutoEncoder:
        grids = self.config.grids
        width = sum(map(len, grids))
        if width > dim:
            raise InputError(
                f"The grids of {len(grids)} levels have {width} coordinates but the vectors only {dim}: use fewer "
                "levels or codes."
            )
        sizes = (dim, *self.config.hidden, width)
        encoder = Around(Mlp(sizes, generator, zero=True), torch.zeros(dim, width))
        decoder = Around(Mlp(sizes[::-1], generator, zero=True), torch.zeros(width, dim))
        return AutoEncoder(dim, Bounded(encoder), GridCodebooks(grids), decoder)

    def _train(
        self,
        network: AutoEncoder,
        inputs: Tensor,
        side: np.ndarray | None,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> None:
        with one_thread(), torch.no_grad():
            _start(network, inputs / network.scale)
        train(
            list(network.parameters()),
            lambda rows: network(inputs[rows])[0],
            len(inputs),
            self.config,
            progress=progress,
        )


def _start(network: AutoEncoder, inputs: Tensor) -> None:
    """Linear maps: principal axes to the grid, least squares back."""
    encoder, decoder = network.encoder, network.decoder
    assert isinstance(encoder, Bounded)
    assert isinstance(decoder, Around)
    there, back = encoder.network.matrix, decoder.matrix
    assert there is not None
    assert back is not None
    mean = inputs.mean(0)
    encoder.network.mlp.shift.copy_(mean)
    decoder.mlp.last.bias.copy_(mean)
    centred = (inputs - mean).cpu().double()
    variances, axes = torch.linalg.eigh(centred.T @ centred / len(centred))
    spread = variances.flip(0)[: there.shape[1]].clamp_min(1e-12).sqrt()
    there.copy_(axes.flip(1)[:, : there.shape[1]] / spread * _SLOPE)
    points = network.codebooks(encoder(inputs)).total.cpu().double()
    gram = points.T @ points + 1e-6 * len(points) * torch.eye(points.shape[1], dtype=points.dtype)
    back.copy_(torch.linalg.solve(gram, points.T @ centred))
