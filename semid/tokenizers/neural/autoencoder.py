"""An auto-encoder with codes between its halves: what RQ-VAE, RQ-KMeans+ and FSQ share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from semid.errors import InputError
from semid.progress import Progress
from semid.tokenizers.checks import check_trainable, check_width
from semid.tokenizers.clustering.nearest import nearest_codes
from semid.tokenizers.neural.codebooks import Bottleneck, Quantised
from semid.tokenizers.neural.training import TrainedConfig, chosen_device, one_thread

# Rows that go through a network at once.
_ROWS = 1 << 13


class AutoEncoder(nn.Module):
    """Vectors to latents, through the codes, and back.

    Vectors are divided by a power of two near their standard deviation, so that learning rates suit any unit and no
    digit is lost.

    Args:
        dim: D.
        encoder: (B, D) to (B, d).
        codebooks: between the two.
        decoder: (B, d) to (B, D).
    """

    scale: Tensor

    def __init__(self, dim: int, encoder: nn.Module, codebooks: Bottleneck, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.codebooks, self.decoder = encoder, codebooks, decoder
        self.register_buffer("scale", torch.ones(dim))

    def encode(self, vectors: Tensor) -> Tensor:
        """(B, d) latents of (B, D) vectors."""
        latents: Tensor = self.encoder(vectors / self.scale)
        return latents

    def decode(self, totals: Tensor) -> Tensor:
        """(B, D) vectors of (B, d) sums of centroids."""
        vectors: Tensor = self.decoder(totals) * self.scale
        return vectors

    def forward(self, vectors: Tensor) -> tuple[Tensor, Quantised]:
        """The mean squared error plus the loss of the codebooks, and what these made of the batch."""
        quantised: Quantised = self.codebooks(self.encode(vectors))
        return self.error(vectors, quantised.total) + quantised.loss, quantised

    def error(self, vectors: Tensor, totals: Tensor) -> Tensor:
        """Mean squared error, in units of the scale, of the vectors that the totals decode to."""
        return ((self.decode(totals) - vectors) / self.scale).square().mean(1).mean()


class NeuralQuantiser(ABC):
    """A quantiser whose latents come from a network.

    Attributes:
        config: how to fit.
        network_: the fitted network.
        codebooks_: L arrays (K_l, d) float32 in the space of its latents.
    """

    config: TrainedConfig
    network_: AutoEncoder
    codebooks_: list[np.ndarray]

    @property
    def num_codes(self) -> tuple[int, ...]:
        """K of each level."""
        return self.config.num_codes

    def fit(self, vectors: np.ndarray, *, side: np.ndarray | None = None, progress: Progress | None = None) -> Self:
        """Fit to (N, D) float32 vectors; see :class:`semid.tokenizers.quantiser.Quantiser`.

        Raises:
            InputError: fewer vectors than codes at a level, NaN or infinity, or a setting the vectors do not fit.
        """
        check_trainable(vectors, self.num_codes)
        generator = torch.Generator().manual_seed(self.config.seed)
        network = self._network(vectors.shape[1], generator)
        network.scale.fill_(_power_of_two(vectors))
        device = chosen_device(self.config.device)
        inputs = torch.tensor(vectors, dtype=torch.float32, device=device)
        self._train(network.to(device), inputs, side, generator, progress)
        self._take(network)
        return self

    @abstractmethod
    def _network(self, dim: int, generator: torch.Generator) -> AutoEncoder:
        """The network before training, on the CPU."""

    @abstractmethod
    def _train(
        self,
        network: AutoEncoder,
        inputs: Tensor,
        side: np.ndarray | None,
        generator: torch.Generator,
        progress: Progress | None,
    ) -> None:
        """Start the codebooks, then change the network in place."""

    def latents(self, vectors: np.ndarray) -> np.ndarray:
        """(N, d) float32 outputs of the encoder, which the centroids approximate.

        Raises:
            InputError: another width than fitted, NaN or infinity.
        """
        check_width(vectors, len(self.network_.scale))
        latents = np.empty((len(vectors), self.codebooks_[0].shape[1]), np.float32)
        with one_thread(), torch.inference_mode():
            for rows in _blocks(len(vectors)):
                latents[rows] = self.network_.encode(self._tensor(vectors[rows])).cpu().numpy()
        return latents

    def encode(self, vectors: np.ndarray) -> np.ndarray:
        """Codes of (N, D) float32 vectors, the nearest centroid of every level in turn: (N, L) int32.

        Raises:
            InputError: another width than fitted, NaN or infinity.
        """
        codes = np.empty((len(vectors), len(self.codebooks_)), np.int32)
        residuals = self.latents(vectors)
        for level, codebook in enumerate(self.codebooks_):
            codes[:, level] = nearest_codes(residuals, codebook)
            residuals -= codebook[codes[:, level]]
        return codes

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """The (N, D) float32 vectors that (N, L) codes stand for; further columns add nothing."""
        vectors = np.empty((len(codes), len(self.network_.scale)), np.float32)
        with one_thread(), torch.inference_mode():
            for rows in _blocks(len(codes)):
                totals = np.zeros((rows.stop - rows.start, self.codebooks_[0].shape[1]), np.float32)
                for level, codebook in enumerate(self.codebooks_):
                    totals += codebook[codes[rows, level]]
                vectors[rows] = self.network_.decode(self._tensor(totals)).cpu().numpy()
        return vectors

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The weights of the network, codebooks included."""
        return {name: tensor.cpu().numpy().copy() for name, tensor in self.network_.state_dict().items()}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> Self:
        """Take over what :meth:`to_arrays` gave.

        Raises:
            InputError: the state of another configuration.
        """
        state = {name: torch.tensor(np.asarray(array)) for name, array in arrays.items()}
        try:
            network = self._network(len(state["scale"]), torch.Generator())
            network.load_state_dict(state)
        except (KeyError, RuntimeError):
            raise InputError(
                "The saved state is not that of a quantiser with these settings: fit it again."
            ) from None
        self._take(network.to(chosen_device(self.config.device)))
        return self

    def _take(self, network: AutoEncoder) -> None:
        self.network_ = network.eval()
        self.codebooks_ = network.codebooks.arrays()

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.tensor(np.asarray(array, np.float32), device=self.network_.scale.device)


def _blocks(num_rows: int) -> list[slice]:
    return [slice(first, min(first + _ROWS, num_rows)) for first in range(0, num_rows, _ROWS)]


def _power_of_two(vectors: np.ndarray) -> float:
    """The power of two nearest to the standard deviation of a coordinate; 1 for vectors that are all alike."""
    variance = float(np.mean(vectors.var(axis=0, dtype=np.float64)))
    return float(2.0 ** np.round(np.log2(variance) / 2)) if variance > 1e-60 else 1.0
