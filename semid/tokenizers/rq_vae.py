"""RQ-VAE: an auto-encoder whose latents are residually quantised, with LETTER's losses as options.

TIGER (arXiv 2305.05065): z = E(x), r_0 = z, r_l = r_{l−1} − e^l, where e^l is the centroid nearest to r_{l−1}, and
ẑ = Σ_l e^l; the loss is ‖x − D(ẑ)‖² + Σ_l ‖sg(r_{l−1}) − e^l‖² + β ‖r_{l−1} − sg(e^l)‖², each a mean over the width.
The first fifth of the training leaves the codes out; then the codebooks start as those of RQ-KMeans on the latents.
LETTER (arXiv 2405.07314) adds a collaborative and a diversity loss: see ``neural/losses.py``.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semid.tokenizers.checks import check_at_least
from semid.tokenizers.neural.autoencoder import AutoEncoder
from semid.tokenizers.neural.codebooks import Quantised, ResidualCodebooks
from semid.tokenizers.neural.letter import CollaborativeTerm, DiversityTerm, check_side
from semid.tokenizers.neural.networks import Mlp
from semid.tokenizers.neural.residual import ResidualAutoEncoder, ResidualConfig, Terms

_UNCODED_SHARE = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class RQVAEConfig(ResidualConfig):
    """How to train an RQ-VAE; further attributes in :class:`ResidualConfig`.

    Attributes:
        dim: width of the latents.
        collaborative: weight of LETTER's collaborative loss, which needs side vectors; 0 for none.
        diversity: weight of LETTER's diversity loss; 0 for none.
        clusters: of the centroids of a level, for the diversity loss.
        temperature: of both losses.
    """

    dim: int = 32
    collaborative: float = 0.0
    diversity: float = 0.0
    clusters: int = 10
    temperature: float = 0.1

    def __post_init__(self) -> None:
        ResidualConfig.__post_init__(self)
        check_at_least("width of the latents", self.dim, 1)
        check_at_least("weight of the collaborative loss", self.collaborative, 0)
        check_at_least("weight of the diversity loss", self.diversity, 0)
        check_at_least("number of clusters", self.clusters, 1)
        check_at_least("temperature", self.temperature, 1e-3)


class RQVAE(ResidualAutoEncoder):
    """Residually quantised auto-encoder.

    Args:
        config: how to train.
    """

    config: RQVAEConfig

    def _network(self, dim: int, generator: torch.Generator) -> AutoEncoder:
        sizes = (dim, *self.config.hidden, self.config.dim)
        codebooks = self._codebooks(self.config.dim)
        return AutoEncoder(dim, Mlp(sizes, generator), codebooks, Mlp(sizes[::-1], generator))

    def _centre(self, network: AutoEncoder, mean: Tensor) -> None:
        assert isinstance(network.encoder, Mlp)
        assert isinstance(network.decoder, Mlp)
        network.encoder.shift.copy_(mean)
        network.decoder.last.bias.copy_(mean)

    def _uncoded_steps(self) -> int:
        return round(_UNCODED_SHARE * self.config.steps)

    def _terms(
        self, codebooks: ResidualCodebooks, inputs: Tensor, side: np.ndarray | None, generator: torch.Generator
    ) -> Terms | None:
        config = self.config
        if not config.collaborative and not config.diversity:
            return None
        diverse = DiversityTerm(codebooks, config.clusters, config.temperature, generator)
        if not config.collaborative:
            return Terms(lambda _, quantised: config.diversity * diverse.loss(quantised), [])
        agreeing = CollaborativeTerm(config.dim, check_side(side, len(inputs)), config.temperature, inputs.device)

        def loss(rows: Tensor, quantised: Quantised) -> Tensor:
            total = config.collaborative * agreeing.loss(rows, quantised)
            return total + config.diversity * diverse.loss(quantised) if config.diversity else total

        return Terms(loss, agreeing.parameters)
