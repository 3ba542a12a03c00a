"""RQ-KMeans+: the codebooks of RQ-KMeans, trained on with the loss of RQ-VAE behind a residual encoder.

GPR (arXiv 2511.10138): z = x + MLP(x), and likewise back. Both MLPs start at zero, so without any training codes and
decoded vectors are those of RQ-KMeans fitted and encoded level by level (``rounds=0, beam=1``).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from semid.tokenizers.neural.autoencoder import AutoEncoder
from semid.tokenizers.neural.networks import Around, Mlp
from semid.tokenizers.neural.residual import ResidualAutoEncoder, ResidualConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class RQKMeansPlusConfig(ResidualConfig):
    """How to train; further attributes in :class:`ResidualConfig`.

    Attributes:
        steps: mini-batches to train on. It starts from good codes, and with several times this many on a small
            catalogue the networks learn its vectors by heart, at the cost of new ones.
    """

    steps: int = 600


class RQKMeansPlus(ResidualAutoEncoder):
    """Residual k-means quantiser trained on behind residual networks.

    Args:
        config: how to train.
    """

    config: RQKMeansPlusConfig

    def _network(self, dim: int, generator: torch.Generator) -> AutoEncoder:
        sizes = (dim, *self.config.hidden, dim)
        encoder = Around(Mlp(sizes, generator, zero=True))
        return AutoEncoder(dim, encoder, self._codebooks(dim), Around(Mlp(sizes[::-1], generator, zero=True)))

    def _centre(self, network: AutoEncoder, mean: Tensor) -> None:
        for part in (network.encoder, network.decoder):
            assert isinstance(part, Around)
            part.mlp.shift.copy_(mean)
