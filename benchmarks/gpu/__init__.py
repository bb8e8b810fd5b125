"""Parts of gpu_check.py: the stages, running them, timing, and comparisons."""
