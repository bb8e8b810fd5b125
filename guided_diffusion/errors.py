"""What can go wrong in a way that a user can mend; commands show each as one line, without a traceback."""


class ConfigError(ValueError):
    """Flags that contradict each other or cannot be built; the message names the flag and the remedy."""


class DataError(ValueError):
    """Data that cannot be used; the message names the file and the remedy, a line for each broken case."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged, foreign, or at odds with the flags; the message names it and the remedy."""


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says at which step, why, and what is saved."""
