"""Self-contained HTML pages: to be opened anywhere, without a network."""
