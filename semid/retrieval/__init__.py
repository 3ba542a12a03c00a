"""Retrieval by item vectors (exact and ANN) and its combination with generated items."""
