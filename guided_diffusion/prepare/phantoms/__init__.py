"""Phantoms: images with an ambiguous nodule and raters from a known distribution, also in other file formats."""
