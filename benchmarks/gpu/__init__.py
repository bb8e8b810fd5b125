"""What gpu_check.py is made of: running stages, timing, comparing, and the stages."""
