"""Models that are shipped with the program, a model folder for each name. Data only."""
