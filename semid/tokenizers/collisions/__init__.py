"""One item per code: what to do with items whose codes are the same."""
