"""CT-like images of a nodule with an ambiguous outline, and raters drawn from a distribution that is known per image.

A nodule has a solid core, a hazy halo around it, and a lobe on one side. A rater chooses one of four modes: the core
only (tight), core and halo (loose), core and lobe (lobulated), or nothing (absent). The image shows their
probabilities: a brighter halo makes loose more likely, a brighter lobe lobulated, and a fainter nodule absent. The
modes of several nodules are independent.
"""

import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
from PIL import Image
from scipy import ndimage

from ...flags.sizes import Size, as_size

MODES = ("tight", "loose", "lobulated", "absent")
MAX_ABSENT = 0.2  # the largest probability of the mode "absent"
LUNG, WALL = 0.16, 0.62  # grey levels of lung and chest wall, in [0, 1]


class SceneOptions(TypedDict, total=False):
    """Keyword arguments of `make_phantom`."""

    num_nodules: int
    modes: Sequence[str]
    probabilities: Sequence[float] | None
    num_modalities: int


class Nodule(NamedTuple):
    """The modes of a nodule: {mode: mask [H, W] bool} and {mode: probability}."""

    outlines: dict[str, np.ndarray]
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Phantom:
    """A case; the masks of modes and raters are bool."""

    images: list[np.ndarray]  # one per modality, [H, W] float in [0, 1]
    modes: dict[str, np.ndarray]  # {name: mask [H, W]}; for several nodules, names like "tight+absent"
    probabilities: dict[str, float]  # {name: probability}, with sum 1
    drawn: list[str]  # the mode chosen by each of the R raters

    @property
    def image(self) -> np.ndarray:
        """The image of the first modality."""
        return self.images[0]

    @property
    def raters(self) -> np.ndarray:
        """The masks of the raters, [R, H, W]."""
        return np.stack([self.modes[name] for name in self.drawn])


def make_phantom(
    seed: int,
    index: int,
    size: int = 128,
    num_raters: int = 8,
    *,
    num_nodules: int = 1,
    modes: Sequence[str] = MODES,
    probabilities: Sequence[float] | None = None,
    num_modalities: int = 1,
) -> Phantom:
    """Case number `index` of the data set with this seed; depends only on its arguments.

    size            side of the image, pixels
    modes           the modes that raters choose from, a subset of MODES
    probabilities   probabilities of the modes; None: drawn for each nodule, and visible in the image
    """
    rng = np.random.default_rng((seed, index))
    nodules = []
    for place in range(num_nodules):
        chances = draw_probabilities(rng)
        if probabilities is not None:
            chances = dict.fromkeys(MODES, 0.0) | dict(zip(modes, probabilities, strict=True))
        chances = {name: chance if name in modes else 0.0 for name, chance in chances.items()}
        chances = {name: chance / sum(chances.values()) for name, chance in chances.items()}
        nodules.append(Nodule(draw_outlines(rng, size, *where(place, num_nodules)), chances))

    masks, truth = {}, {}
    for answers in itertools.product(modes, repeat=num_nodules):  # one mode per nodule
        given = list(zip(nodules, answers, strict=True))
        masks["+".join(answers)] = np.any([nodule.outlines[answer] for nodule, answer in given], axis=0)
        truth["+".join(answers)] = float(np.prod([nodule.probabilities[answer] for nodule, answer in given]))
    drawn = rng.choice(list(masks), size=num_raters, p=list(truth.values()))
    images = [render(rng, nodules, size)]  # last, because only this draws a number of values that depends on the size
    for k in range(1, num_modalities):  # the same scene, alternately inverted, with independent noise
        image = images[0] if k % 2 == 0 else 1 - images[0]
        images.append(np.clip(0.2 + 0.6 * image + 0.02 * smooth_noise(rng, size, 1 + k), 0, 1))
    return Phantom(images, masks, truth, [str(name) for name in drawn])


def where(place: int, num_nodules: int) -> tuple[tuple[float, float], float]:
    """The centre of a nodule, as a share of the image's side, and its size relative to that of a single nodule."""
    if num_nodules == 1:
        return (0.5, 0.5), 1.0
    angle = 2 * np.pi * place / num_nodules
    return (0.5 + 0.25 * np.sin(angle), 0.5 + 0.25 * np.cos(angle)), 1.2 / (1 + num_nodules)


def draw_probabilities(rng: np.random.Generator) -> dict[str, float]:
    """{mode: probability}: "absent" is 0 for half of the nodules; the others follow a Dirichlet distribution."""
    absent = max(0.0, rng.uniform(-MAX_ABSENT, MAX_ABSENT))
    present = (1 - absent) * rng.dirichlet([6, 6, 6])
    return {**{name: float(p) for name, p in zip(MODES, present, strict=False)}, "absent": float(absent)}


def draw_outlines(
    rng: np.random.Generator, size: int, middle: tuple[float, float] = (0.5, 0.5), scale: float = 1.0
) -> dict[str, np.ndarray]:
    """{mode: mask [H, W] bool} of a nodule of relative size `scale` near `middle`, a share of the side `size`."""
    centre = size * (np.array(middle) + scale * rng.uniform(-0.08, 0.08, size=2))
    unit = scale * size
    y, x = np.mgrid[:size, :size] + 0.5
    rho, theta = np.hypot(y - centre[0], x - centre[1]), np.arctan2(y - centre[0], x - centre[1])

    core = unit * rng.uniform(0.12, 0.16) * (1 + wave(rng, theta, 0.10))
    halo = core * (rng.uniform(1.5, 1.7) + wave(rng, theta, 0.08))
    angle, reach, radius = rng.uniform(0, 2 * np.pi), unit * rng.uniform(0.20, 0.24), unit * rng.uniform(0.11, 0.13)
    beyond = np.hypot(y - centre[0] - reach * np.sin(angle), x - centre[1] - reach * np.cos(angle))
    lobe = beyond < radius * (1 + wave(rng, theta, 0.08))
    return {
        "tight": rho < core,
        "loose": rho < halo,
        "lobulated": (rho < core) | lobe,
        "absent": np.zeros((size, size), bool),
    }


def wave(rng: np.random.Generator, theta: np.ndarray, amplitude: float) -> np.ndarray:
    """A smooth closed curve of about `amplitude` around 0, over the angles theta."""
    waves = [amplitude / k * rng.normal() * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4)]
    return waves[0] + waves[1] + waves[2]


def render(rng: np.random.Generator, nodules: Sequence[Nodule], size: int) -> np.ndarray:
    """The image [H, W] in [0, 1]: nodules in lung with vessels, with grey levels that show their probabilities."""
    pixel = size / 128
    image = LUNG + 0.02 * smooth_noise(rng, size, 6 * pixel)
    for _ in range(rng.integers(3, 7)):
        image = np.maximum(image, vessel(rng, size))
    if rng.random() < 0.4:
        image = np.where(half_plane(rng, size), WALL + 0.02 * smooth_noise(rng, size, 3 * pixel), image)

    for masks, probabilities in nodules:
        contrast = 0.62 - 1.4 * min(probabilities["absent"], MAX_ABSENT)
        nodule = np.zeros((size, size))  # solidity, 1 in the core
        for name in ("loose", "lobulated"):
            nodule = np.maximum(nodule, masks[name] * (0.2 + 0.65 * probabilities[name]))
        nodule = ndimage.gaussian_filter(np.maximum(nodule, masks["tight"]), 0.6 * pixel)
        image = image * (1 - nodule) + (LUNG + contrast) * nodule
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), 0.5)
    return np.clip(image + 0.012 * noise, 0, 1)


def smooth_noise(rng: np.random.Generator, size: Size, sigma: float) -> np.ndarray:
    """Smooth noise with standard deviation 1, [H, W]."""
    noise = ndimage.gaussian_filter(rng.normal(size=as_size(size)), sigma, mode="wrap")
    return noise / noise.std()


def vessel(rng: np.random.Generator, size: int) -> np.ndarray:
    """A bright thin line across the image, [H, W], 0 elsewhere."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle, offset = rng.uniform(0, np.pi), rng.choice([-1, 1]) * rng.uniform(0.2, 0.5)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = across - offset - 0.05 * np.sin(6 * along + rng.uniform(0, 6))
    return rng.uniform(0.25, 0.5) * np.exp(-((distance / rng.uniform(0.008, 0.016)) ** 2))


def half_plane(rng: np.random.Generator, size: int) -> np.ndarray:
    """The mask of the chest wall: the area beyond a slightly bent line near one edge, [H, W] bool."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return across > rng.uniform(0.38, 0.5) - 0.3 * along**2


def write_set(
    out: str, num_cases: int, seed: int, size: int = 128, num_raters: int = 8, **more: Unpack[SceneOptions]
) -> None:
    """Write cases and truth.json to the folder `out`. `more` are arguments of make_phantom.

    CASE/image_CASE.png, CASE/label0_.png ...  the training data
    CASE/mode_tight.png ...                    the mask of each mode
    truth.json                                 {seed, size, raters, cases: {CASE: {modes, drawn}}}, where `modes` is
                                               {name: {probability, mask}}
    """
    cases: dict[str, dict[str, Any]] = {}
    for index in range(num_cases):
        name = f"phantom{index:04d}"
        phantom = make_phantom(seed, index, size, num_raters, **more)
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        for k, image in enumerate(phantom.images):
            title = f"image_{name}" if len(phantom.images) == 1 else f"image{k}_{name}"
            save_png(os.path.join(folder, f"{title}.png"), np.round(image * 255).astype(np.uint8))
        for rater, mask in enumerate(phantom.raters):
            save_png(os.path.join(folder, f"label{rater}_.png"), mask)
        for mode, mask in phantom.modes.items():
            save_png(os.path.join(folder, f"mode_{mode}.png"), mask)
        cases[name] = {
            "modes": {
                mode: {"probability": round(phantom.probabilities[mode], 6), "mask": f"{name}/mode_{mode}.png"}
                for mode in phantom.modes
            },
            "drawn": phantom.drawn,
        }
    with open(os.path.join(out, "truth.json"), "w", encoding="utf-8") as file:
        json.dump({"seed": seed, "size": size, "raters": num_raters, "cases": cases}, file, indent=1)
        file.write("\n")


def save_png(path: str, array: np.ndarray) -> None:
    """Save a bool array as a 1-bit PNG, and a uint8 array as a grey PNG."""
    Image.fromarray(array).save(path, optimize=True)
