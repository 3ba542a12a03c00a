"""Metrics and the comparison of ways to recommend."""
