"""Other ambiguous segmenters with the interface of AmbiguousSegmenter."""
