"""Writing a prepared dataset by stream: events, columns, embeddings, splits and queries."""
