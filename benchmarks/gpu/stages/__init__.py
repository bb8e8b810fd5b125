"""The stages of gpu_check.py: each module has run(record, settings), which runs in a separate process."""
