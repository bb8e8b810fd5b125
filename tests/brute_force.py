"""Slow, plain-Python reference for metrics that compare a set of masks with a set of masks.

Each mask is a two-dimensional array of booleans, read as mask[i][j]. A mask of several classes is a sequence of such
arrays, read as mask[k][i][j]: pairs of them have the mean over the classes, and `over_classes` makes that mean of a
function of sets.
"""

import itertools
import math
from fractions import Fraction

EPS = 1e-8


def _has_classes(mask):
    """Whether a mask is mask[k][i][j]."""
    return hasattr(mask[0][0], "__len__")


def _over_classes(function, a, b):
    """Mean over the classes of a function of two masks."""
    return _mean(function(a[k], b[k]) for k in range(len(a)))


def over_classes(function):
    """The function of two sets of masks, as its mean over the classes."""

    def mean(samples, raters):
        classes = range(len(samples[0]))
        return _mean(function([s[k] for s in samples], [y[k] for y in raters]) for k in classes)

    return mean


def _flat(mask):
    """The pixels of a mask as a list of 0 and 1, row by row."""
    pixels = []
    for i in range(len(mask)):
        for j in range(len(mask[i])):
            pixels.append(1 if mask[i][j] else 0)
    return pixels


def _mean(values):
    """Arithmetic mean of floats."""
    values = list(values)
    return math.fsum(values) / len(values)


def _mean_mask(masks):
    """Exact pixelwise mean of a set of masks, flattened."""
    flats = [_flat(mask) for mask in masks]
    return [Fraction(sum(flat[p] for flat in flats), len(flats)) for p in range(len(flats[0]))]


def _union(masks):
    """Pixelwise union of a set of masks, flattened."""
    flats = [_flat(mask) for mask in masks]
    return [max(flat[p] for flat in flats) for p in range(len(flats[0]))]


def _flat_dice(x, y):
    """Dice of two flattened masks; 1 for two empty masks."""
    both = 0
    total = 0
    for u, v in zip(x, y, strict=True):
        if u and v:
            both += 1
        total += u + v
    if total == 0:
        return 1.0
    return 2 * both / total


def iou(a, b):
    """Intersection over union; 1 for two empty masks."""
    if _has_classes(a):
        return _over_classes(iou, a, b)
    both = 0
    either = 0
    for u, v in zip(_flat(a), _flat(b), strict=True):
        if u and v:
            both += 1
        if u or v:
            either += 1
    if either == 0:
        return 1.0
    return both / either


def dice(a, b):
    """Dice overlap; 1 for two empty masks."""
    if _has_classes(a):
        return _over_classes(dice, a, b)
    return _flat_dice(_flat(a), _flat(b))


def iou_present(a, b):
    """Mean IoU over the classes that a or b has; 1 if there are none."""
    values = []
    for k in range(len(a)):
        if any(_flat(a[k])) or any(_flat(b[k])):
            values.append(iou(a[k], b[k]))
    return _mean(values) if values else 1.0


def ged_present(samples, raters):
    """Squared generalised energy distance of 1 - iou_present, self-pairs included."""
    cross = _mean(1 - iou_present(s, y) for s in samples for y in raters)
    within = [_mean(1 - iou_present(a, b) for a in masks for b in masks) for masks in (samples, raters)]
    return 2 * cross - within[0] - within[1]


def majority(masks):
    """The class with most votes at each pixel, 0 for the background, flattened; ties go to the lower class."""
    winners = []
    for i in range(len(masks[0][0])):
        for j in range(len(masks[0][0][0])):
            votes = [0] * (len(masks[0]) + 1)
            for mask in masks:
                marked = [k for k in range(len(mask)) if mask[k][i][j]]
                votes[marked[0] + 1 if marked else 0] += 1
            winners.append(max(range(len(votes)), key=lambda k: (votes[k], -k)))
    return winners


def majority_dice_exclusive(samples, raters):
    """Mean over the classes of the Dice of the two sets' majorities."""
    a, b = majority(samples), majority(raters)
    classes = range(1, len(samples[0]) + 1)
    return _mean(_flat_dice([int(x == k) for x in a], [int(x == k) for x in b]) for k in classes)


def _distance(a, b):
    """One minus IoU."""
    return 1.0 - iou(a, b)


def _distinct_pairs(masks):
    """All ordered pairs of masks with distinct indices."""
    pairs = []
    for i in range(len(masks)):
        for j in range(len(masks)):
            if i != j:
                pairs.append((masks[i], masks[j]))
    return pairs


def _mean_within_all(masks):
    """Mean distance over all ordered pairs, self-pairs included."""
    return _mean(_distance(a, b) for a in masks for b in masks)


def _mean_within_distinct(masks):
    """Mean distance over ordered pairs of distinct indices."""
    return _mean(_distance(a, b) for a, b in _distinct_pairs(masks))


def ged(samples, raters):
    """Squared generalised energy distance, self-pairs included."""
    return 2 * ged_cross(samples, raters) - _mean_within_all(samples) - _mean_within_all(raters)


def ged_unbiased(samples, raters):
    """Squared generalised energy distance without self-pairs; both sets need two masks or more."""
    if len(samples) < 2 or len(raters) < 2:
        raise ValueError("ged_unbiased needs at least two masks in each set")
    return 2 * ged_cross(samples, raters) - _mean_within_distinct(samples) - _mean_within_distinct(raters)


def ged_cross(samples, raters):
    """Mean distance over sample-rater pairs."""
    return _mean(_distance(s, y) for s in samples for y in raters)


def diversity(masks):
    """Mean distance over pairs of distinct indices; 0 for one mask."""
    if len(masks) < 2:
        return 0.0
    return _mean_within_distinct(masks)


def hungarian_iou(samples, raters):
    """Greatest mean IoU over all one-to-one matchings of the two sets, repeated to equal length."""
    length = len(samples) * len(raters) // math.gcd(len(samples), len(raters))
    left = [s for s in samples for _ in range(length // len(samples))]
    right = [y for y in raters for _ in range(length // len(raters))]
    table = [[iou(s, y) for y in right] for s in left]
    best = 0.0
    for order in itertools.permutations(range(length)):
        best = max(best, _mean(table[k][order[k]] for k in range(length)))
    return best


def sensitivity(samples, raters):
    """Share of the raters' union that the samples' union covers."""
    union_s = _union(samples)
    union_y = _union(raters)
    if sum(union_y) == 0:
        return 1.0 if sum(union_s) == 0 else 0.0
    return sum(u * v for u, v in zip(union_s, union_y, strict=True)) / sum(union_y)


def max_dice(samples, raters):
    """Mean over raters of the largest Dice among samples."""
    return _mean(max(dice(s, y) for s in samples) for y in raters)


def _one_minus_dice(a, b):
    """One minus Dice."""
    return 1.0 - dice(a, b)


def _difference_variance(a, b):
    """Population variance over the pixels of the difference image a - b."""
    if _has_classes(a):
        return _over_classes(_difference_variance, a, b)
    difference = [u - v for u, v in zip(_flat(a), _flat(b), strict=True)]
    mean = Fraction(sum(difference), len(difference))
    return float(sum((x - mean) ** 2 for x in difference) / len(difference))


def _spread(masks, variance):
    """Largest and smallest variance over pairs of distinct indices; zeros for one mask."""
    if len(masks) < 2:
        return 0.0, 0.0
    values = [variance(a, b) for a, b in _distinct_pairs(masks)]
    return max(values), min(values)


def _agreement(samples, raters, variance):
    """One minus the mean gap between the two sets' largest and smallest variances; not a number for one rater."""
    if len(raters) < 2:
        return math.nan
    max_s, min_s = _spread(samples, variance)
    max_y, min_y = _spread(raters, variance)
    return 1.0 - (abs(max_y - max_s) + abs(min_y - min_s)) / 2


def agreement(samples, raters):
    """Diversity agreement, with one minus Dice as the variance of a pair."""
    return _agreement(samples, raters, _one_minus_dice)


def agreement_pixels(samples, raters):
    """Diversity agreement, with the pixel variance of the difference image as the variance of a pair."""
    return _agreement(samples, raters, _difference_variance)


def ci(s, d, a):
    """Collective insight, 3 s d a / (s + d + a); 0 where the sum is 0."""
    total = s + d + a
    if total == 0:
        return 0.0
    return float(3 * s * d * a / total)


def ci_harmonic(s, d, a):
    """Harmonic mean of the three parts; 0 where any is 0."""
    if s == 0 or d == 0 or a == 0:
        return 0.0
    return float(3 / (1 / s + 1 / d + 1 / a))


def mean_mask_dice(samples, raters):
    """Dice of the two sets' strict pixelwise majorities."""
    half = Fraction(1, 2)
    majority_s = [1 if m > half else 0 for m in _mean_mask(samples)]
    majority_y = [1 if f > half else 0 for f in _mean_mask(raters)]
    return _flat_dice(majority_s, majority_y)


def _cross_entropy(target, s):
    """Cross entropy of a probability s against a target, both numbers in [0, 1]."""
    return -(target * math.log(s + EPS) + (1 - target) * math.log(1 - s + EPS))


def _entropy_map(target, flats):
    """Cross entropy of each flattened sample against the target, averaged over samples, per pixel."""
    return [_mean(_cross_entropy(float(target[p]), flat[p]) for flat in flats) for p in range(len(target))]


def _pearson(x, y):
    """Pearson correlation of two lists that are not constant."""
    mean_x = _mean(x)
    mean_y = _mean(y)
    deviation_x = math.sqrt(_mean((u - mean_x) ** 2 for u in x))
    deviation_y = math.sqrt(_mean((v - mean_y) ** 2 for v in y))
    return _mean((u - mean_x) / deviation_x * (v - mean_y) / deviation_y for u, v in zip(x, y, strict=True))


def ncc(samples, raters):
    """Mean over raters of the correlation of the samples' uncertainty map and the rater's error map."""
    flats = [_flat(s) for s in samples]
    m = _mean_mask(samples)
    map_a = _entropy_map(m, flats)
    a_constant = len({u * (1 - u) for u in m}) == 1
    scores = []
    for rater in raters:
        y = _flat(rater)
        b_constant = len({abs(v - u) for u, v in zip(m, y, strict=True)}) == 1
        if all(abs(v - u) == 0 for u, v in zip(m, y, strict=True)):
            scores.append(1.0)
        elif a_constant or b_constant:
            scores.append(0.0)
        else:
            scores.append(_pearson(map_a, _entropy_map(y, flats)))
    return _mean(scores)


def calibration(samples, raters, bins=10):
    """Expected calibration error of the samples' mean against the raters' mean."""
    m = _mean_mask(samples)
    f = _mean_mask(raters)
    total = Fraction(0)
    for b in range(bins):
        members = [p for p in range(len(m)) if min(math.floor(m[p] * bins), bins - 1) == b]
        if not members:
            continue
        mean_m = sum(m[p] for p in members) / len(members)
        mean_f = sum(f[p] for p in members) / len(members)
        total += Fraction(len(members), len(m)) * abs(mean_m - mean_f)
    return float(total)


def brier(samples, raters):
    """Mean over pixels of the squared difference of the two sets' means."""
    m = _mean_mask(samples)
    f = _mean_mask(raters)
    return float(sum((u - v) ** 2 for u, v in zip(m, f, strict=True)) / len(m))


def _share_up_to(areas, limit):
    """Empirical distribution function: the share of areas that are at most limit."""
    return Fraction(sum(1 for area_ in areas if area_ <= limit), len(areas))


def area(samples, raters):
    """One minus the 1-Wasserstein distance of the areas over the sum of the mean areas; 1 if all are empty."""
    areas_s = [sum(_flat(s)) for s in samples]
    areas_y = [sum(_flat(y)) for y in raters]
    scale = Fraction(sum(areas_s), len(areas_s)) + Fraction(sum(areas_y), len(areas_y))
    if scale == 0:
        return 1.0
    # Areas are whole numbers, so both distribution functions are flat between k and k + 1.
    largest = max(areas_s + areas_y)
    distance = sum(abs(_share_up_to(areas_s, k) - _share_up_to(areas_y, k)) for k in range(largest))
    return float(1 - distance / scale)
