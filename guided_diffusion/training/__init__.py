"""Parts of the training loop: flags, start or resume, state, weight averages, step status, validation."""
