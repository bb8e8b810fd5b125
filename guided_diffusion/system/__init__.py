"""What the operating system and the device give: files, locks, workers, signals, threads, precision. Nothing of the domain."""
