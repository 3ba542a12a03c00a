"""Residual quantisation in pieces: levels, paths through them, and refining all of them at once."""
