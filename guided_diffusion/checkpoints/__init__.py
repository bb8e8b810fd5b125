"""Checkpoints: format, files, published weights, loading into modules, and the checkpoint folder of a run."""
