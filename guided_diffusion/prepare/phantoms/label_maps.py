"""Phantoms with several classes: label maps of raters and modes, and the files that they become."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ...data.files.dataset_json import DatasetFile, write_dataset_file
from ...flags.classes import Classes, parse_classes
from ...masks.class_pictures import to_palette
from ...system import storage

MAX_CLASSES = 19  # as Cityscapes has


@dataclass(frozen=True)
class LabelPhantom:
    """A case in colour, whose raters draw label maps: 0 for background, k for class k."""

    image: np.ndarray  # [H, W, 3] float in [0, 1]
    modes: dict[str, np.ndarray]  # {name: label map [H, W] uint8}
    probabilities: dict[str, float]  # {name: probability}, with sum 1
    drawn: list[str]  # the mode chosen by each of the R raters

    @property
    def raters(self) -> np.ndarray:
        """The label maps of the raters, [R, H, W] uint8."""
        return np.stack([self.modes[name] for name in self.drawn])


def write_set(
    out: str, name: str, phantoms: Iterable[LabelPhantom], classes: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Write cases called NAME0000, NAME0001, ..., truth.json and dataset.json to the folder `out`.

    classes  names of the classes 1 to K
    about    further content of truth.json

    CASE/image_CASE.png, CASE/label0_.png ...  the training data
    CASE/mode_MODE.png ...                     the label map of each mode
    truth.json                                 {..., cases: {CASE: {modes, drawn}}}, as of nodules
    """
    cases: dict[str, dict[str, Any]] = {}
    of_labels = parse_classes(classes)
    for index, phantom in enumerate(phantoms):
        case = f"{name}{index:04d}"
        folder = os.path.join(out, case)
        os.makedirs(folder, exist_ok=True)
        picture = Image.fromarray(np.round(phantom.image * 255).astype(np.uint8))
        picture.save(os.path.join(folder, f"image_{case}.png"), optimize=True)
        for rater, label in enumerate(phantom.raters):
            save_label(os.path.join(folder, f"label{rater}_.png"), label, of_labels)
        for mode, label in phantom.modes.items():
            save_label(os.path.join(folder, f"mode_{mode}.png"), label, of_labels)
        cases[case] = {
            "modes": {
                mode: {"probability": round(phantom.probabilities[mode], 6), "mask": f"{case}/mode_{mode}.png"}
                for mode in phantom.modes
            },
            "drawn": phantom.drawn,
        }
    labels = {title: (k,) for k, title in enumerate(classes, 1)}
    write_dataset_file(out, DatasetFile(name=f"phantoms: {name}", labels=labels))
    storage.write_json(os.path.join(out, "truth.json"), {**about, "cases": cases})


def save_label(path: str, label: np.ndarray, classes: Classes) -> None:
    """Save a label map [H, W] uint8 as a PNG of 8 bits, whose palette has a colour per class."""
    to_palette(label, classes).save(path, optimize=True, bits=8)
