"""Foreign formats: sets of challenges, folders of pictures, safe readers, and converters by name."""
