import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from semid.tokenizers.neural.losses import cluster_partners, collaborative_loss, diversity_loss


def test_collaborative_loss_worked_by_hand() -> None:
    quantised = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    side = torch.tensor([[5.0, 0.0], [0.0, 1.0]])
    # Cosines are 1 with the own vector and 0 with the other: −log(e² / (e² + 1)) at temperature ½.
    expected = -math.log(math.e**2 / (math.e**2 + 1))
    assert float(collaborative_loss(quantised, side, 0.5)) == pytest.approx(expected)


def test_collaborative_loss_against_numpy_without_unknown_rows() -> None:
    rng = np.random.default_rng(0)
    quantised, side = rng.standard_normal((2, 9, 4))
    side[[2, 7]] = 0
    loss = collaborative_loss(torch.from_numpy(quantised), torch.from_numpy(side), 0.1)
    known = [0, 1, 3, 4, 5, 6, 8]
    own = quantised[known] / np.linalg.norm(quantised[known], axis=1, keepdims=True)
    other = side[known] / np.linalg.norm(side[known], axis=1, keepdims=True)
    similarity = np.exp(own @ other.T / 0.1)
    assert float(loss) == pytest.approx(float(-np.log(np.diag(similarity) / similarity.sum(1)).mean()))


def test_collaborative_loss_without_known_rows_is_nought() -> None:
    quantised = torch.ones(3, 2, requires_grad=True)
    loss = collaborative_loss(quantised, torch.zeros(3, 2), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0
    assert quantised.grad is not None
    assert not quantised.grad.any()


def test_diversity_loss_against_numpy() -> None:
    """With clusters of two the partner of a centroid is certain; one alone in its cluster counts for nothing."""
    rng = np.random.default_rng(1)
    book, codes, clusters = rng.standard_normal((5, 3)), np.array([0, 3, 3, 4, 2]), np.array([0, 1, 0, 1, 2])
    loss = diversity_loss(
        torch.from_numpy(book),
        torch.from_numpy(codes),
        torch.from_numpy(clusters),
        0.2,
        torch.Generator().manual_seed(0),
    )
    unit = book / np.linalg.norm(book, axis=1, keepdims=True)
    similarity = np.exp(unit @ unit.T / 0.2)
    np.fill_diagonal(similarity, 0)
    partner = {0: 2, 1: 3, 2: 0, 3: 1}
    terms = [-np.log(similarity[code, partner[code]] / similarity[code].sum()) for code in codes if code in partner]
    assert float(loss) == pytest.approx(float(np.mean(terms)))


def test_partners_share_the_cluster_and_are_never_oneself() -> None:
    generator = torch.Generator().manual_seed(3)
    clusters = torch.tensor([2, 0, 2, 1, 0, 2, 2, 3])
    seen: dict[int, set[int]] = {row: set() for row in range(8)}
    for _ in range(200):
        for row, partner in enumerate(cluster_partners(clusters, generator).tolist()):
            seen[row].add(partner)
    assert seen[3] == seen[7] == {-1}
    assert seen[1] == {4}
    assert seen[0] == {2, 5, 6}
    assert seen[6] == {0, 2, 5}


def test_diversity_loss_spreads_crowded_centroids_so_that_codes_are_used_alike() -> None:
    generator = torch.Generator().manual_seed(4)
    crowded = torch.tensor([1.0, 0, 0, 0]) + 0.1 * torch.randn(16, 4, generator=generator)
    vectors = torch.randn(2000, 4, generator=generator)
    book = crowded.clone().requires_grad_()
    optimiser = torch.optim.Adam([book], lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        diversity_loss(book, torch.arange(16), torch.arange(16) % 4, 0.3, generator).backward()
        optimiser.step()

    def entropy(centroids: torch.Tensor) -> float:
        share = torch.bincount((vectors @ F.normalize(centroids, dim=1).T).argmax(1), minlength=16) / len(vectors)
        return float(-(share * share.clamp_min(1e-9).log()).sum())

    assert entropy(book.detach()) > entropy(crowded) + 0.2
