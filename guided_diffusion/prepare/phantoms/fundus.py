"""Pictures like photographs of a fundus: raters disagree on the edge of the cup and on that of the disc.

A rater draws the cup small, medium or large, and the disc tight or wide, with the atrophic ring around it. The image
shows the probabilities: the paler a zone of the cup, the more raters include it; the paler the ring, the more draw a
wide disc; without a ring none does. The two choices are dependent. Raters of a wide disc draw larger cups, more
strictly so where the vessels are faint: such images are judged by habit. The truth has the probabilities of pairs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from .label_maps import LabelPhantom
from .phantom import smooth_noise, wave

DISCS, CUPS = ("tight", "wide"), ("small", "medium", "large")
CLASSES = ("disc", "cup")  # the disc without the cup, which is the rim; and the cup
WITHOUT_RING = 0.25  # share of the cases in which all raters draw a tight disc
LOOSEST = 0.4  # the smallest strength of the dependence
FINE = 4  # vessels are drawn at this many times the size

FUNDUS, DISC, CUP, RING = (
    np.array(colour) / 255 for colour in [(200, 86, 37), (240, 158, 82), (255, 240, 194), (222, 168, 128)]
)
ABSORBED = np.array([0.48, 0.78, 0.72])  # shares of red, green and blue light that a vessel takes away


class Chances(NamedTuple):
    """What decides the probabilities of pairs."""

    wide: float  # probability of a wide disc
    cups: np.ndarray  # [3] probabilities of CUPS
    strength: float  # of the dependence, from 0 to 1


class Vessel(NamedTuple):
    """A vessel as a chain of points (x, y) and a width at each, in units of the image's shorter side."""

    points: np.ndarray  # [N, 2], relative to the centre of the disc
    widths: np.ndarray  # [N]
    opacity: float


class Place(NamedTuple):
    """Where the disc is."""

    size: tuple[int, int]  # of the image, (H, W)
    centre: np.ndarray  # of the disc, (y, x) in pixels
    temporal: int  # direction of the macula: 1 right, -1 left

    @property
    def unit(self) -> int:
        """The shorter side of the image, pixels."""
        return min(self.size)


def make_fundus(seed: int, index: int, size: tuple[int, int] = (64, 64), num_raters: int = 6) -> LabelPhantom:
    """Case number `index` of the data set with this seed, at `size` (H, W); depends only on its arguments."""
    rng = np.random.default_rng((seed, index))
    chances = draw_chances(rng)
    centre = np.array(size) / 2 + min(size) * rng.uniform(-0.06, 0.06, size=2)
    place = Place(size, centre, int(rng.choice([-1, 1])))
    regions = draw_regions(rng, place)
    vessels = draw_vessels(rng, place.temporal)

    pairs = pair_probabilities(*chances)
    modes, truth = {}, {}
    for d, disc in enumerate(DISCS):
        for c, cup in enumerate(CUPS):
            modes[f"{disc}+{cup}"] = regions[disc].astype(np.uint8) + regions[cup]  # cups are inside of discs
            truth[f"{disc}+{cup}"] = float(pairs[d, c])
    drawn = rng.choice(list(modes), size=num_raters, p=list(truth.values()))
    image = render(rng, place, regions, vessels, chances)  # last: only this draws numbers that depend on the size
    return LabelPhantom(image, modes, truth, [str(name) for name in drawn])


def draw_chances(rng: np.random.Generator) -> Chances:
    """The probabilities of a case."""
    ring, wide, strength = rng.random() >= WITHOUT_RING, rng.uniform(0.2, 0.8), rng.uniform(LOOSEST, 1)
    return Chances(wide if ring else 0.0, rng.dirichlet([3, 3, 3]), strength)


def pair_probabilities(wide: float, cups: Sequence[float] | np.ndarray, strength: float) -> np.ndarray:
    """The probabilities of pairs [disc, cup], with the marginals (1 - wide, wide) and `cups` for any strength.

    strength  0: independent; 1: in the same order, so that no rater of a wide disc draws a smaller cup than one of a
              tight disc; between: a mixture of both
    """
    edges = np.minimum(np.concatenate([[0], np.cumsum(cups)]), 1)  # not above 1 by rounding
    tight = np.diff(np.minimum(edges, 1 - wide))
    ordered = np.stack([tight, np.diff(edges) - tight])
    pairs = strength * ordered + (1 - strength) * np.outer([1 - wide, wide], cups)
    return pairs / pairs.sum()


# -- outlines ---------------------------------------------------------------------------------------------------------


def draw_regions(rng: np.random.Generator, place: Place) -> dict[str, np.ndarray]:
    """{name of DISCS or CUPS: mask [H, W] bool}, each inside of the next larger one, all cups inside of both discs."""
    y, x = np.indices(place.size) + 0.5
    y, x = (y - place.centre[0]) / place.unit, (x - place.centre[1]) / place.unit
    rho, theta = np.hypot(y, x), np.arctan2(y, x)

    taller = -rng.uniform(0.02, 0.07) * np.cos(2 * theta)
    tight = rng.uniform(0.195, 0.225) * (1 + taller + wave(rng, theta, 0.015))
    towards = place.temporal * np.cos(theta)  # 1 on the side of the macula
    ring = rng.uniform(0.28, 0.36) + rng.uniform(0.0, 0.12) * towards + wave(rng, theta, 0.04)
    regions = {"tight": rho < tight, "wide": rho < tight * (1 + np.maximum(ring, 0.15))}

    share = rng.uniform(0.32, 0.40) + 0.05 * towards + wave(rng, theta, 0.03)  # of the disc's radius
    regions["small"] = rho < tight * np.maximum(share, 0.2)
    for name in CUPS[1:]:
        share = np.maximum(share, 0.2) + np.maximum(rng.uniform(0.18, 0.23) + wave(rng, theta, 0.03), 0.1)
        regions[name] = rho < tight * np.minimum(share, 0.92)
    return regions


def draw_vessels(rng: np.random.Generator, temporal: int) -> list[Vessel]:
    """A vein and an artery into each quarter of the image, from the nasal half of the cup, and their branches."""
    vessels = []
    for down in (-1, 1):
        for side in (temporal, -temporal):
            for width, opacity in ((0.030, 1.0), (0.021, 0.75)):
                start = np.array([-temporal * rng.uniform(0.0, 0.05), down * rng.uniform(0.0, 0.03)])
                tilt = rng.uniform(0.1, 0.5) if side == temporal else rng.uniform(0.5, 1.0)
                bend = rng.uniform(1.2, 2.2) if side == temporal else rng.uniform(-0.4, 0.8)
                stem = _vessel(start, (tilt, bend), (side, down), width, opacity)
                vessels.append(stem)
                for _ in range(2):
                    at = int(rng.integers(14, 44))
                    turned = tilt + bend * at / len(stem.points) + rng.choice([-1, 1]) * rng.uniform(0.5, 0.9)
                    curve = (turned, rng.uniform(-0.6, 0.6))
                    vessels.append(_vessel(stem.points[at], curve, (side, down), stem.widths[at] * 0.65, opacity))
    return vessels


def _vessel(
    start: np.ndarray, curve: tuple[float, float], quarter: tuple[int, int], width: float, opacity: float
) -> Vessel:
    """A vessel of length 1, whose angle to the vertical is curve[0] at its start and grows by curve[1]."""
    steps = np.linspace(0, 1, 80)
    angle = curve[0] + curve[1] * steps
    moves = np.stack([quarter[0] * np.sin(angle), quarter[1] * np.cos(angle)], axis=1) / len(steps)
    return Vessel(start + np.cumsum(moves, axis=0), width * (1 - 0.55 * steps), opacity)


# -- the image --------------------------------------------------------------------------------------------------------


def render(
    rng: np.random.Generator, place: Place, regions: dict[str, np.ndarray], vessels: Sequence[Vessel], chances: Chances
) -> np.ndarray:
    """The image [H, W, 3] in [0, 1], which shows the probabilities."""
    pixel = place.unit / 64
    tint = np.exp(rng.normal(size=3) * (0.04, 0.08, 0.10))
    image = background(rng, place, tint)
    mottled = 1 + 0.12 * smooth_noise(rng, place.size, 1.2 * pixel)
    image = _over(image, RING, regions["wide"] * min(chances.wide, 0.8) * mottled, pixel)
    image = _over(image, DISC * tint**0.5, regions["tight"], 0.8 * pixel)
    _, medium, large = np.cumsum(chances.cups[::-1])[::-1]  # probabilities of a cup at least as large
    pale = np.select(
        [regions["small"], regions["medium"], regions["large"]], [0.95, 0.18 + 0.7 * medium, 0.08 + 0.7 * large], 0.0
    )
    image = _over(image, CUP, pale, 0.7 * pixel)

    clear = 1 - 0.8 * (chances.strength - LOOSEST) / (1 - LOOSEST)
    image = image * (1 - clear * vessel_map(place, vessels)[..., None] * ABSORBED)
    grain = 0.016 * smooth_noise(rng, place.size, 0.5) + 0.008 * rng.normal(size=(3, *place.size))
    return np.clip(image + np.moveaxis(grain, 0, -1), 0, 1)


def background(rng: np.random.Generator, place: Place, tint: np.ndarray) -> np.ndarray:
    """Retina [H, W, 3]: orange red with a texture, darker at the macula and towards the corners."""
    y, x = np.indices(place.size) + 0.5
    pixel, middle = place.unit / 64, np.array(place.size) / 2
    from_middle = np.hypot((y - middle[0]) / middle[0], (x - middle[1]) / middle[1])
    macula = place.centre + place.unit * np.array([0.06, 0.52 * place.temporal])
    from_macula = np.hypot(y - macula[0], x - macula[1]) / place.unit
    light = 1.08 - 0.24 * from_middle**2 - 0.25 * np.exp(-((from_macula / 0.16) ** 2))
    light = light + 0.035 * smooth_noise(rng, place.size, 4 * pixel) + 0.03 * smooth_noise(rng, place.size, 1.3 * pixel)
    return light[..., None] ** (1, 1.5, 1.5) * FUNDUS * tint


def vessel_map(place: Place, vessels: Sequence[Vessel]) -> np.ndarray:
    """Opacity of the vessels, [H, W] in [0, 1]."""
    height, width = place.size
    page = Image.new("L", (width * FINE, height * FINE))
    draw = ImageDraw.Draw(page)
    for vessel in sorted(vessels, key=lambda vessel: vessel.opacity):
        points = (place.centre[::-1] + place.unit * vessel.points) * FINE
        for (x, y), breadth in zip(points, vessel.widths, strict=True):
            radius = max(breadth * place.unit * FINE / 2, 1)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=round(255 * vessel.opacity))
    return np.asarray(page.reduce(FINE)) / 255


def _over(image: np.ndarray, colour: np.ndarray, opacity: np.ndarray, sigma: float) -> np.ndarray:
    """`image` under a colour, whose opacity [H, W] is blurred by `sigma` pixels."""
    opacity = np.clip(ndimage.gaussian_filter(opacity.astype(float), sigma), 0, 1)[..., None]
    return image * (1 - opacity) + colour * opacity
