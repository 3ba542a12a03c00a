"""The decoder: features, trunk, heads, training and constrained beam search."""
