"""Auto-encoders with residual codebooks that start as those of RQ-KMeans: what RQ-VAE and RQ-KMeans+ share."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from semid.errors import InputError
from semid.progress import Progress
from semid.tokenizers.checks import check_at_least
from semid.tokenizers.neural.autoencoder import AutoEncoder, NeuralQuantiser
from semid.tokenizers.neural.codebooks import Quantised, ResidualCodebooks
from semid.tokenizers.neural.gradients import GRADIENTS
from semid.tokenizers.neural.training import TrainedConfig, one_thread, train
from semid.tokenizers.rq_kmeans import RQKMeans, RQKMeansConfig

# Vectors that the codebooks start on; more move the start little.
_START_ROWS, _START_ROWS_PER_CODE = 1 << 16, 32


@dataclass(frozen=True, kw_only=True, slots=True)
class ResidualConfig(TrainedConfig):
    """What both share; further attributes in :class:`TrainedConfig`.

    Attributes:
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        commitment: β, how much latents are drawn to their centroids.
        gradient: ``straight-through`` or ``rotation``.
    """

    hidden: tuple[int, ...] = (512, 256, 128)
    commitment: float = 0.25
    gradient: str = "straight-through"

    def __post_init__(self) -> None:
        TrainedConfig.__post_init__(self)
        check_at_least("width of a hidden layer", min(self.hidden, default=1), 1)
        check_at_least("commitment", self.commitment, 0)
        if self.gradient not in GRADIENTS:
            raise InputError(f"Unknown gradient {self.gradient!r}: use one of {', '.join(GRADIENTS)}.")


@dataclass(frozen=True, slots=True)
class Terms:
    """A further loss of the training.

    Attributes:
        loss: of the (B,) rows of a batch and what the codebooks made of them.
        parameters: that are trained with it and then dropped.
    """

    loss: Callable[[Tensor, Quantised], Tensor]
    parameters: list[Tensor]


class ResidualAutoEncoder(NeuralQuantiser):
    """See the module; subclasses make the network."""

    config: ResidualConfig

    def __init__(self, config: ResidualConfig) -> None:
        self.config = config

    @abstractmethod
    def _centre(self, network: AutoEncoder, mean: Tensor) -> None:
        """Tell the parts of the network where the (D,) middle of its inputs is."""

    def _uncoded_steps(self) -> int:
        """Steps at the start of the training in which the codebooks are left out."""
        return 0

    def _terms(
        self, codebooks: ResidualCodebooks, inputs: Tensor, side: np.ndarray | None, generator: torch.Generator
    ) -> Terms | None:
        """A further loss, if any."""
        return None

    def _codebooks(self, dim: int) -> ResidualCodebooks:
        config = self.config
        return ResidualCodebooks(config.num_codes, dim, commitment=config.commitment, gradient=config.gradient)

    def _train(
        self,
        network: AutoEncoder,
        inputs: Tensor,
        side: np.ndarray | None,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> None:
        codebooks = network.codebooks
        assert isinstance(codebooks, ResidualCodebooks)
        terms = self._terms(codebooks, inputs, side, generator)
        with one_thread(), torch.no_grad():
            self._centre(network, (inputs / network.scale).mean(0))
        uncoded, steps = self._uncoded_steps(), self.config.steps
        if uncoded:
            _train_uncoded(network, inputs, replace(self.config, steps=uncoded), _later(progress, 0, steps))
        codebooks.set(self._start(network, inputs, generator))

        def loss_of(rows: Tensor) -> Tensor:
            loss, quantised = network(inputs[rows])
            further = 0 if terms is None else terms.loss(rows, quantised)
            result: Tensor = loss + further
            return result

        def restart(rows: Tensor, optimiser: torch.optim.Optimizer) -> None:
            with torch.no_grad():
                codebooks.restart(network.encode(inputs[rows]), optimiser, generator)

        parameters = [*network.parameters(), *([] if terms is None else terms.parameters)]
        config = replace(self.config, steps=steps - uncoded)
        tell = _later(progress, uncoded, steps)
        train(parameters, loss_of, len(inputs), config, restart=restart, progress=tell)

    def _start(self, network: AutoEncoder, inputs: Tensor, generator: torch.Generator) -> list[np.ndarray]:
        most = max(_START_ROWS, _START_ROWS_PER_CODE * max(self.num_codes))
        if len(inputs) > most:
            rows = torch.randperm(len(inputs), generator=generator)[:most]
            inputs = inputs[rows.sort().values]
        unit = float(network.scale[0])  # of the vectors, in which RQ-KMeans itself would fit
        with one_thread(), torch.no_grad():
            latents = network.encode(inputs).cpu().numpy() * np.float32(unit)
        levels, codes, seed = self.config.levels, self.config.codes, self.config.seed
        config = RQKMeansConfig(levels=levels, codes=codes, seed=seed, rounds=0, beam=1)  # codes are greedy here
        return [book / np.float32(unit) for book in RQKMeans(config).fit(latents).codebooks_]


def _later(progress: Progress | None, before: int, total: int) -> Progress | None:
    """The progress of a part of the training that some steps went before."""
    return None if progress is None else lambda stage, done, _: progress(stage, before + done, total)


def _train_uncoded(network: AutoEncoder, inputs: Tensor, config: ResidualConfig, progress: Progress | None) -> None:
    def loss_of(rows: Tensor) -> Tensor:
        return network.error(inputs[rows], network.encode(inputs[rows]))

    parameters: list[Tensor] = [*network.encoder.parameters(), *network.decoder.parameters()]
    train(parameters, loss_of, len(inputs), config, progress=progress)
