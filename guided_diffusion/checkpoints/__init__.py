"""Checkpoints: what is in one, its files, published ones, weights that fit a model, the checkpoints of a run."""
