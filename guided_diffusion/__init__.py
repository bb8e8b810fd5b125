"""Ambiguous medical image segmentation with diffusion models: many plausible masks for one image."""
