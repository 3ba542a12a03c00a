"""Embeddings in, semantic IDs out."""
