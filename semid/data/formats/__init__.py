"""File formats read and written by stream: pickles without execution, JSON lines, parquet folders."""
