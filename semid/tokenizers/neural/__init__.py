"""Quantisers trained by gradient: networks, codebooks, losses and the loop they share."""
