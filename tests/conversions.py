"""What the tests of convert_data.py share."""

import csv

import numpy as np
from helpers import call_script

from guided_diffusion.lidcloader import LIDCDataset

Y, X = np.mgrid[:48, :64]
DISC = np.hypot(Y - 20, X - 42) < 13  # 517 pixels
GREY = np.where(DISC, 200, 50).astype(np.uint8)
COLOURS = np.where(DISC[..., None], (200, 41, 37), (60, 107, 60)).astype(np.uint8)  # of one luminance


def convert(name, src, out, *more):
    return call_script("convert_data", name, f"--src={src}", f"--out={out}", *more)


def read(out):
    """{case: Case} of all splits, and the manifest's rows."""
    cases = {}
    for split in ("training", "validation", "testing"):
        if (out / split).is_dir():
            dataset = LIDCDataset(out / split, image_channels=None)
            cases |= {dataset[k].id: dataset[k] for k in range(len(dataset))}
    with open(out / "manifest.csv") as file:
        return cases, {row["case"]: row for row in csv.DictReader(file)}
