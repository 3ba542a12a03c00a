"""What the embeddings of an item say of those it lacks: regression in the space of shared components.

With z the scaled concatenation and t = Uᵀ z its leading components, the model is z_e = U_e t + noise_e, t ~ N(0, Λ')
and noise_e ~ N(0, ψ_e I), where ψ_e is what the components leave of the energy of e: probabilistic PCA (Tipping and
Bishop 1999) with one noise level an embedding. The absent part of t = Σ_e U_eᵀ z_e takes its conditional mean

    t = U_oᵀ z_o + U_mᵀ U_m (U_oᵀ Ψ_o⁻¹ U_o + Λ'⁻¹)⁻¹ U_oᵀ Ψ_o⁻¹ z_o

over observed o and missing m: a ridge-regularised least squares in the shared space, and plain Uᵀ z when nothing is
missing. All of it happens among the S components: each embedding's share U_eᵀ z_e is multiplied by one S × S matrix.
"""

from collections.abc import Sequence

import numpy as np

from semid.tokenizers.fusion.components import RANK_TOLERANCE


def noise_levels(energies: np.ndarray, explained: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """ψ_e per dimension, (E,), from the energy of each embedding and what the components hold of it.

    At least a thousandth of the energy, so that the posterior exists for embeddings of full rank too.
    """
    return np.asarray(np.maximum(energies - explained, 1e-3 * energies) / np.array(dims))


def regression(grams: np.ndarray, variances: np.ndarray, noise: np.ndarray, present: np.ndarray) -> np.ndarray:
    """What to multiply each present embedding's share U_eᵀ z_e by, on the right, to sum to t.

    Args:
        grams: (E, S, S) float64, U_eᵀ U_e.
        variances: (S,) Λ of the components.
        noise: (E,) ψ_e; zero for constant embeddings, which say nothing.
        present: (E,) bool, not all False.

    Returns:
        (E, S, S) float64, zero for missing embeddings.
    """
    identity = np.eye(len(variances))
    turns = np.where(present[:, None, None], identity, 0)
    if present.all():
        return turns
    some = noise > 0
    precisions = np.where(some & present, 1 / np.where(some, noise, 1), 0)
    leaked = np.einsum("e,ess->s", noise, grams)
    prior = np.maximum(variances - leaked, RANK_TOLERANCE * max(variances[0], 1e-30))
    posterior = np.linalg.inv(np.einsum("e,est->st", precisions, grams) + np.diag(1 / prior))
    filled = posterior @ grams[~present].sum(0)
    return np.asarray(turns + precisions[:, None, None] * filled)
