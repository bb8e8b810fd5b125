"""What the training loop is composed of: flags, starts, state, averages, status of steps, validation."""
