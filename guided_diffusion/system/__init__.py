"""The operating system and the device: files, locks, workers, signals, threads, precision. No domain code."""
