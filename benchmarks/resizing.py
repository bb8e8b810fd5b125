"""Error of the area of small masks when they are resized: discs and lines in 256x256 pixels, brought to 128, 64 and 32.

    python benchmarks/resizing.py --out benchmarks/results/resizing.json

Discs lie at random positions within a pixel, lines of 100 pixels also in random directions. The reference is bilinear
interpolation with antialiasing, cut at half. Errors are relative to the area of the mask before it is resized.
"""

from typing import Annotated

import numpy as np
from machine import machine_name
from PIL import Image
from running import write_json

from guided_diffusion.data.resize import resize_masks
from guided_diffusion.flags import command_line
from guided_diffusion.flags.fields import Flag, config

SIDE, LINE = 256, 100  # pixels


@config()
class BenchmarkConfig:
    discs: Annotated[tuple[float, ...], Flag("diameters of the discs, pixels")] = (2, 3, 4, 5, 6, 8, 10)
    lines: Annotated[tuple[float, ...], Flag("widths of the lines, pixels")] = (1, 2, 3)
    sides: Annotated[tuple[int, ...], Flag("sides to resize to, pixels")] = (128, 64, 32)
    positions: Annotated[int, Flag("random positions of each shape")] = 400
    out: Annotated[str, Flag("JSON file for the results")] = ""


def disc(rng, diameter):
    """A mask [SIDE, SIDE] of a disc."""
    row, column = rng.uniform(SIDE / 4, 3 * SIDE / 4, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.hypot(rows - row, columns - column) < diameter / 2


def line(rng, width):
    """A mask [SIDE, SIDE] of a straight line of LINE pixels."""
    (row, column), angle = rng.uniform(SIDE / 4, 3 * SIDE / 4, 2), rng.uniform(0, np.pi)
    rows, columns = np.mgrid[:SIDE, :SIDE] - np.array([row, column])[:, None, None]
    along, across = (rows * np.sin(angle) + columns * np.cos(angle), rows * np.cos(angle) - columns * np.sin(angle))
    return (abs(along) < LINE / 2) & (abs(across) < width / 2)


def by_bilinear(mask, side):
    """The reference."""
    grey = Image.fromarray(mask.astype(np.float32))
    return np.asarray(grey.resize((side, side), Image.Resampling.BILINEAR)) > 0.5


RULES = {"this project": lambda mask, side: resize_masks(mask[None], (side, side))[0], "bilinear": by_bilinear}


def figures(masks, side, resize):
    """Errors of the area, in percent of the mask's own, and percent of the masks that vanish."""
    before = masks.sum((1, 2))
    after = np.array([resize(mask, side).sum() for mask in masks]) * (SIDE / side) ** 2
    errors = 100 * (after / before - 1)
    return {
        "mean": errors.mean(),
        "mean_absolute": abs(errors).mean(),
        "worst": errors[abs(errors).argmax()],
        "vanished": 100 * (after == 0).mean(),
    }


def measure(config):
    """A row for each shape, side and rule."""
    shapes = [("disc", disc, size) for size in config.discs] + [("line", line, size) for size in config.lines]
    for name, draw, size in shapes:
        rng = np.random.default_rng(0)
        masks = np.array([draw(rng, size) for _ in range(config.positions)])
        masks = masks[masks.any((1, 2))]
        for side in config.sides:
            for rule, resize in RULES.items():
                found = {key: round(float(value), 1) for key, value in figures(masks, side, resize).items()}
                yield {"shape": f"{name} {size:g}", "side": side, "rule": rule, **found}


def main():
    with command_line.one_line_errors("benchmarks/resizing.py"):
        config = command_line.parse_command_line((BenchmarkConfig,), __doc__)[BenchmarkConfig]
        rows = list(measure(config))
        print(" | ".join(rows[0]))
        for row in rows:
            print(" | ".join(map(str, row.values())))
        write_json(config.out, {"machine": machine_name(), "from": SIDE, "positions": config.positions, "rows": rows})


if __name__ == "__main__":
    main()
