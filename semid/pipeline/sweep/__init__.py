"""The parts of a scaling study: what is varied, one run, what came out."""
