"""
CT-like images of a nodule with an ambiguous outline, and raters drawn from a distribution that is known per image.

A nodule has a solid core, a hazy halo around it, and a lobe that grows out of it on one side. A rater gives one of four
answers: the core alone (tight), core and halo (loose), core and lobe (lobulated), or nothing at all (absent). How often
each is given can be seen in the image: the brighter the halo the more often loose, the brighter the lobe the more often
lobulated, the fainter the whole nodule the more often absent.
"""

import json
import os
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

MODES = ("tight", "loose", "lobulated", "absent")
MAX_ABSENT = 0.2  # the largest probability of the answer "absent"
LUNG, WALL = 0.16, 0.62  # grey of air-filled lung and of the chest wall, in [0, 1]


@dataclass(frozen=True)
class Phantom:
    """One case; the masks of modes and raters are bool."""

    image: np.ndarray  # [H, W] float in [0, 1]
    modes: dict[str, np.ndarray]  # {name: mask [H, W]}
    probabilities: dict[str, float]  # {name: probability}, summing to 1
    drawn: list[str]  # the answer of each rater, R names

    @property
    def raters(self):
        """The raters' masks, [R, H, W]."""
        return np.stack([self.modes[name] for name in self.drawn])


def make_phantom(seed, index, size=128, num_raters=8):
    """Case number `index` of the set `seed`: a function of its arguments alone. `size` is the side in pixels."""
    rng = np.random.default_rng((seed, index))
    probabilities = draw_probabilities(rng)
    masks = draw_outlines(rng, size)
    drawn = rng.choice(MODES, size=num_raters, p=[probabilities[name] for name in MODES])
    image = render(rng, masks, probabilities, size)  # last, for only this draws more numbers for a larger image
    return Phantom(image, masks, probabilities, [str(name) for name in drawn])


def draw_probabilities(rng):
    """{mode: probability}: nodules that all see in half of the cases, and the other answers in any proportion."""
    absent = max(0.0, rng.uniform(-MAX_ABSENT, MAX_ABSENT))
    present = (1 - absent) * rng.dirichlet([6, 6, 6])
    return {**{name: float(p) for name, p in zip(MODES, present)}, "absent": float(absent)}


def draw_outlines(rng, size):
    """{mode: mask [H, W] bool} of a nodule near the centre of the image."""
    centre = size * (0.5 + rng.uniform(-0.08, 0.08, size=2))
    y, x = np.mgrid[:size, :size] + 0.5
    rho, theta = np.hypot(y - centre[0], x - centre[1]), np.arctan2(y - centre[0], x - centre[1])

    core = size * rng.uniform(0.12, 0.16) * (1 + wave(rng, theta, 0.10))
    halo = core * (rng.uniform(1.5, 1.7) + wave(rng, theta, 0.08))
    angle, reach, radius = rng.uniform(0, 2 * np.pi), size * rng.uniform(0.20, 0.24), size * rng.uniform(0.11, 0.13)
    beyond = np.hypot(y - centre[0] - reach * np.sin(angle), x - centre[1] - reach * np.cos(angle))
    lobe = beyond < radius * (1 + wave(rng, theta, 0.08))
    return {"tight": rho < core, "loose": rho < halo, "lobulated": (rho < core) | lobe, "absent": np.zeros((size, size), bool)}


def wave(rng, theta, amplitude):
    """A smooth closed curve of about `amplitude` around 0, over the angles theta."""
    return sum(amplitude / k * rng.normal() * np.cos(k * theta + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4))


def render(rng, masks, probabilities, size):
    """The image [H, W] in [0, 1]: the nodule whose grey levels show the probabilities, on lung with vessels."""
    pixel = size / 128
    image = LUNG + 0.02 * smooth_noise(rng, size, 6 * pixel)
    for _ in range(rng.integers(3, 7)):
        image = np.maximum(image, vessel(rng, size))
    if rng.random() < 0.4:
        image = np.where(half_plane(rng, size), WALL + 0.02 * smooth_noise(rng, size, 3 * pixel), image)

    contrast = 0.62 - 1.4 * probabilities["absent"]
    nodule = np.zeros((size, size))  # how solid it is: 1 in the core
    for name in ("loose", "lobulated"):
        nodule = np.maximum(nodule, masks[name] * (0.2 + 0.65 * probabilities[name]))
    nodule = ndimage.gaussian_filter(np.maximum(nodule, masks["tight"]), 0.6 * pixel)
    image = image * (1 - nodule) + (LUNG + contrast) * nodule
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), 0.5)
    return np.clip(image + 0.012 * noise, 0, 1)


def smooth_noise(rng, size, sigma):
    """Smooth noise of unit deviation, [H, W]."""
    noise = ndimage.gaussian_filter(rng.normal(size=(size, size)), sigma, mode="wrap")
    return noise / noise.std()


def vessel(rng, size):
    """A bright thin line across the image, [H, W], 0 elsewhere."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle, offset = rng.uniform(0, np.pi), rng.choice([-1, 1]) * rng.uniform(0.2, 0.5)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    distance = across - offset - 0.05 * np.sin(6 * along + rng.uniform(0, 6))
    return rng.uniform(0.25, 0.5) * np.exp(-((distance / rng.uniform(0.008, 0.016)) ** 2))


def half_plane(rng, size):
    """The chest wall: what lies beyond a slightly bent line near one edge, [H, W] bool."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    return across > rng.uniform(0.38, 0.5) - 0.3 * along**2


def write_set(out, num_cases, seed, size=128, num_raters=8):
    """
    Write cases into the folder `out`, and truth.json beside them.

        CASE/image_CASE.png, CASE/label0_.png ...    what a program trains on
        CASE/mode_tight.png ...                      the mask of every answer
        truth.json                                   {seed, size, cases: {CASE: {modes: {name: {probability, mask}}, drawn}}}
    """
    truth = {"seed": seed, "size": size, "raters": num_raters, "cases": {}}
    for index in range(num_cases):
        name = f"phantom{index:04d}"
        phantom = make_phantom(seed, index, size, num_raters)
        folder = os.path.join(out, name)
        os.makedirs(folder, exist_ok=True)
        save_png(os.path.join(folder, f"image_{name}.png"), np.round(phantom.image * 255).astype(np.uint8))
        for rater, mask in enumerate(phantom.raters):
            save_png(os.path.join(folder, f"label{rater}_.png"), mask)
        for mode, mask in phantom.modes.items():
            save_png(os.path.join(folder, f"mode_{mode}.png"), mask)
        truth["cases"][name] = {
            "modes": {
                mode: {"probability": round(phantom.probabilities[mode], 6), "mask": f"{name}/mode_{mode}.png"}
                for mode in MODES
            },
            "drawn": phantom.drawn,
        }
    with open(os.path.join(out, "truth.json"), "w", encoding="utf-8") as file:
        json.dump(truth, file, indent=1)
        file.write("\n")


def save_png(path, array):
    """A bool array as a 1-bit PNG, an 8-bit one as grey."""
    Image.fromarray(array).save(path, optimize=True)
