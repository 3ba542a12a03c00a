"""Input formats in, one prepared dataset out: the only owner of raw files."""
