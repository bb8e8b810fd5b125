"""Other formats: challenge data sets, folders of pictures, safe readers, and converters by name."""
