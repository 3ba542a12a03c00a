"""Several embeddings, partly missing, as one short vector an item."""
