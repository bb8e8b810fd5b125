"""What is known of the origin of a checkpoint, of samples, of a packed file and of a folder of cases."""
