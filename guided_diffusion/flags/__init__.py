"""Flags: annotated fields of config classes, and how the command line, presets and checkpoints read them. No torch."""
