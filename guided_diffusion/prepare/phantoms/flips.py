"""Pictures of shapes whose class flips to a twin with a known probability, as Cityscapes in Kohl et al. (2018).

Shape and colour show the kind of an object, such as a square. A rater calls all squares of an image "square" or all of
them "square2"; nothing in the image shows which. The kinds flip independently of each other. Kinds without a twin, and
the outlines, are the same for all raters.
"""

import colorsys
import itertools
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from .label_maps import MAX_CLASSES, LabelPhantom
from .phantom import smooth_noise

FLIPS = (8 / 17, 7 / 17, 6 / 17, 5 / 17, 4 / 17)  # probabilities of the twins, as in the paper
ROWS = 4  # of the grid of objects, along the shorter side


class Kind(NamedTuple):
    """A kind of objects: corners (0: round), depth of the notches between them, and height relative to width."""

    name: str
    corners: int
    depth: float = 0.0
    aspect: float = 1.0


KINDS = (
    Kind("square", 4),
    Kind("disc", 0),
    Kind("triangle", 3),
    Kind("star", 5, 0.5),
    Kind("cross", 4, 0.6),
    Kind("ellipse", 0, aspect=0.55),  # from here on without a twin
    Kind("bar", 4, aspect=0.45),
    Kind("hexagon", 6),
    Kind("trefoil", 3, 0.5),
    Kind("gear", 8, 0.35),
    Kind("wedge", 3, aspect=0.6),
    Kind("pillar", 4, aspect=2.0),
    Kind("pentagon", 5),
    Kind("egg", 0, aspect=1.6),
)


class Object(NamedTuple):
    """An object of an image."""

    kind: int  # number in KINDS
    mask: np.ndarray  # [H, W] bool


def num_pairs(num_classes: int) -> int:
    """How many of K classes are pairs of twins: as many as possible, at most five."""
    return min(len(FLIPS), num_classes // 2)


def class_names(num_classes: int) -> list[str]:
    """The names of the classes 1 to K: pairs such as square, square2, then the kinds without a twin."""
    pairs = num_pairs(num_classes)
    twins = [name for kind in KINDS[:pairs] for name in (kind.name, f"{kind.name}2")]
    single = [kind.name for kind in KINDS[pairs : num_classes - pairs]]
    return twins + single


def flip_probabilities(num_classes: int) -> dict[str, float]:
    """{class: probability that a rater calls it by its twin}, of the classes that flip."""
    return {kind.name: p for kind, p in zip(KINDS[: num_pairs(num_classes)], FLIPS, strict=False)}


def make_flips(
    seed: int, index: int, size: tuple[int, int] = (64, 64), num_raters: int = 8, num_classes: int = 10
) -> LabelPhantom:
    """Case number `index` of the data set with this seed, at `size` (H, W); depends only on its arguments.

    num_classes  K, from 2 to MAX_CLASSES
    """
    assert 2 <= num_classes <= MAX_CLASSES
    rng = np.random.default_rng((seed, index))
    pairs = num_pairs(num_classes)
    objects = place_objects(rng, size, num_classes - pairs)
    flippable = sorted({thing.kind for thing in objects if thing.kind < pairs})

    modes, truth = {}, {}
    for flipped in itertools.product((False, True), repeat=len(flippable)):
        answer = dict(zip(flippable, flipped, strict=True))
        name = "+".join(KINDS[kind].name + "2" * flips for kind, flips in answer.items()) or "same"
        label = np.zeros(size, np.uint8)
        for kind, mask in objects:
            label[mask] = 1 + 2 * kind + answer[kind] if kind < pairs else 1 + pairs + kind
        modes[name] = label
        truth[name] = float(np.prod([FLIPS[kind] if flips else 1 - FLIPS[kind] for kind, flips in answer.items()]))
    drawn = rng.choice(list(modes), size=num_raters, p=list(truth.values()))
    image = render(rng, size, objects)  # last: only this draws numbers that depend on the size
    return LabelPhantom(image, modes, truth, [str(name) for name in drawn])


def place_objects(rng: np.random.Generator, size: tuple[int, int], num_kinds: int) -> list[Object]:
    """Objects in the cells of a grid, without overlap; each kind in the image has one object or more."""
    side = min(size) / ROWS
    rows, columns = int(size[0] / side), int(size[1] / side)
    cells = rng.permutation(rows * columns)[: round(0.8 * rows * columns)].tolist()
    count = rng.integers(max(1, num_kinds // 2), min(num_kinds, len(cells)), endpoint=True)
    shown = rng.permutation(num_kinds)[:count].tolist()
    kinds = shown + rng.choice(shown, size=len(cells) - len(shown)).tolist()

    objects = []
    for kind, cell in zip(kinds, cells, strict=True):
        corner = np.array([cell // columns, cell % columns])
        centre = side * (corner + 0.5 + rng.uniform(-0.04, 0.04, size=2))
        radius = side * rng.uniform(0.38, 0.46)
        objects.append(Object(kind, outline(KINDS[kind], size, centre, radius)))
    return objects


def outline(kind: Kind, size: tuple[int, int], centre: np.ndarray, radius: float) -> np.ndarray:
    """The mask [H, W] of an object, which is inside of the circle of `radius` pixels around `centre` (y, x)."""
    y, x = np.indices(size) + 0.5
    y, x = (y - centre[0]) / min(kind.aspect, 1), (x - centre[1]) * max(kind.aspect, 1)
    rho, theta = np.hypot(y, x), np.arctan2(y, x) + np.pi / 2  # from the top
    if kind.corners == 0:
        return rho < radius
    sector = 2 * np.pi / kind.corners
    start = sector / 2 if kind.corners == 4 and kind.depth == 0 else 0  # a square stands on its side
    beyond = np.abs((theta + start + sector / 2) % sector - sector / 2)  # angle from the nearest corner
    if kind.depth == 0:
        return rho < radius * np.cos(sector / 2) / np.cos(sector / 2 - beyond)
    return rho < radius * (1 - kind.depth * beyond / (sector / 2))


def colour_of(kind: int) -> np.ndarray:
    """The colour of a kind: hues of neighbours are far apart."""
    return np.array(colorsys.hsv_to_rgb(kind * 5 / len(KINDS) % 1, 0.8 if kind % 2 else 0.6, 0.95 if kind % 3 else 0.8))


def render(rng: np.random.Generator, size: tuple[int, int], objects: list[Object]) -> np.ndarray:
    """The image [H, W, 3] in [0, 1], which depends on the kinds of the objects, but not on any rater."""
    pixel = min(size) / 64
    image = np.full((*size, 3), 0.3) + 0.04 * smooth_noise(rng, size, 3 * pixel)[..., None]
    for kind, mask in objects:
        opacity = ndimage.gaussian_filter(mask.astype(float), 0.4 * pixel)[..., None]
        image = image * (1 - opacity) + colour_of(kind) * opacity
    image *= 1 + 0.05 * smooth_noise(rng, size, pixel)[..., None]
    return np.clip(image + 0.02 * rng.normal(size=image.shape), 0, 1)
