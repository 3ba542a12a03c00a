"""k-means: nearest centroids, starts, and fitting."""
