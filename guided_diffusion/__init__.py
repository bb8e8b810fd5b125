"""Ambiguous medical image segmentation with diffusion models: many plausible masks for one image."""

__version__ = "0.2.0"  # read by setup.py
