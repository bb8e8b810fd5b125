"""Words of flags that are checked without the code that they name."""

SYMMETRIES = ("mirror", "flip", "rotate")  # left and right; that, and top and bottom; by right angles
AUGMENTATIONS = (*SYMMETRIES, "deform", "elastic", "contrast", "gamma", "bias")


def split_kind(kind, known=SYMMETRIES):
    """The parts of a kind, "none" or some of the `known` ones joined by +. ValueError: one is unknown or comes twice."""
    parts = [] if kind == "none" else kind.split("+")
    if len(set(parts)) < len(parts) or not set(parts) <= set(known):
        raise ValueError(f"none, or parts joined by + are wanted, of {', '.join(known)}")
    return parts
