"""The table layout: parquet, CSV and npy files of any catalogue."""
