"""Other ambiguous segmenters behind the interface of AmbiguousSegmenter."""
