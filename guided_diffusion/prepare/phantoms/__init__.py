"""Images with an ambiguous nodule and raters from a known distribution, also in the formats of the field."""
