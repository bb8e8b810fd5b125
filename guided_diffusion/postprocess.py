"""From soft samples to masks, and from an ensemble to its mean and its uncertainty."""

import numpy as np
from scipy import ndimage


def binarise(samples, threshold=0.5, median_blur=1):
    """
    Masks from soft samples, [..., H, W] -> bool of the same shape: above `threshold`, after a median filter.

    median_blur  side of the filter's square window in pixels, odd; 1: none. A median commutes with a threshold, so
                 this is also the median of the mask.
    """
    if median_blur < 1 or median_blur % 2 == 0:
        raise ValueError(f"median blur {median_blur}: an odd number of pixels is needed")
    samples = np.asarray(samples)
    if median_blur > 1:
        window = (1,) * (samples.ndim - 2) + (median_blur, median_blur)
        samples = ndimage.median_filter(samples, size=window, mode="nearest")
    return samples > threshold


def mean_mask(masks):
    """Share of the masks that mark each pixel: [M, H, W] bool -> [H, W] in [0, 1]."""
    return np.asarray(masks, dtype=np.float32).mean(0)


def variance_map(masks):
    """Variance of the masks at each pixel, the uncertainty map: [M, H, W] bool -> [H, W] in [0, 0.25]."""
    return np.asarray(masks, dtype=np.float32).var(0)
