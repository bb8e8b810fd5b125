"""Comparison of methods, trained, sampled and scored on the same cases with equal effort."""
