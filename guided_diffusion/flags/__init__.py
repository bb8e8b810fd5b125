"""Flags: annotated fields of config classes, read by the command line, presets and checkpoints. No torch import."""
