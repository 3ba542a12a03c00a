"""A synthetic set with planted structure, written in layout H."""
