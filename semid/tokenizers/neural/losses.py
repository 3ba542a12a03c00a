"""LETTER's two further losses: codes that agree with behaviour, and codes that are used alike (arXiv 2405.07314).

Shapes: B vectors, d width, K centroids. Vectors are compared by cosine over a temperature, so that neither loss can
be lowered by longer vectors; the paper takes plain inner products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def collaborative_loss(quantised: Tensor, side: Tensor, temperature: float) -> Tensor:
    """−mean log softmax over the batch of the similarity of a quantised vector to its own side vector.

    Args:
        quantised: (B, C), projected to the width of the side vectors.
        side: (B, C) of the same items; rows of zeros, which know nothing, are left out.
        temperature: of the softmax; about 0.1.

    Returns:
        The mean over the rows that are not left out; 0 if that is none.
    """
    known = side.abs().amax(1) > 0
    own, others = F.normalize(quantised[known], dim=1), F.normalize(side[known], dim=1)
    if len(own) < 2:
        return quantised.sum() * 0
    return F.cross_entropy(own @ others.T / temperature, torch.arange(len(own), device=own.device))


def diversity_loss(
    book: Tensor, codes: Tensor, clusters: Tensor, temperature: float, generator: torch.Generator
) -> Tensor:
    """−mean log softmax over the other centroids of the similarity to a random one of the same cluster.

    It draws the centroids of a cluster together and the clusters apart, which spreads the codes.

    Args:
        book: (K, d) centroids.
        codes: (B,) which of them the batch uses.
        clusters: (K,) cluster of each centroid; those alone in theirs are left out.
        temperature: of the softmax.
        generator: of the choice, on the CPU.
    """
    partner = cluster_partners(clusters, generator).to(book.device)
    codes = codes[partner[codes] >= 0]
    if not len(codes):
        return book.sum() * 0
    unit = F.normalize(book, dim=1)
    similarity = unit[codes] @ unit.T / temperature
    similarity = similarity.scatter(1, codes[:, None], -torch.inf)
    return F.cross_entropy(similarity, partner[codes])


def cluster_partners(clusters: Tensor, generator: torch.Generator) -> Tensor:
    """A random other member of the cluster of each of K centroids, -1 where there is none: (K,) int64, on the CPU."""
    clusters = clusters.cpu()
    order = torch.randperm(len(clusters), generator=generator)
    order = order[torch.argsort(clusters[order], stable=True)]
    sizes = torch.bincount(clusters)
    first = torch.cumsum(sizes, 0) - sizes
    own = clusters[order]
    place = torch.arange(len(order)) - first[own]
    following = first[own] + (place + 1) % sizes[own]  # members in a random ring
    partner = torch.full_like(order, -1)
    partner[order] = torch.where(sizes[own] > 1, order[following], -1)
    return partner
