"""The figures of a model card, from the metrics.json of an evaluation."""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from ...errors import ConfigError
from ...evaluation.case_figures import MORE_FIGURES
from ...evaluation.table import PIXELS
from ...masks.metrics import FIGURES, split_count
from ...system import storage

DESCRIPTIONS = {**FIGURES, **MORE_FIGURES}
REMEDY = "pass the metrics.json that segmentation_evaluate.py wrote"
FROM_FILE = ("checkpoint", PIXELS, "samples per case")  # settings that the card states elsewhere


class Figure(NamedTuple):
    """The mean of a metric over the cases."""

    name: str
    description: str
    mean: float
    interval: str  # of 95 %; "-" with a single case
    cases: int


class Figures(NamedTuple):
    """The figures of an evaluation, and how it was made."""

    rows: list[Figure]
    cases: int
    samples: str  # masks per case
    pixels: str  # size at which they were scored
    settings: dict[str, str]  # {name: value} of the samples
    checkpoint: str  # fingerprint of the model that drew them; empty: not stored


def read_figures(path: str) -> Figures:
    """The figures in a metrics.json. ConfigError: it is missing, another file, or has no figures."""
    content = None if storage.is_folder(path) else storage.read_bytes(path)
    if content is None:
        raise ConfigError(f"--metrics {path}: no such file; {REMEDY}")
    try:
        summary = json.loads(content)
        found, settings = dict(summary["figures"]), {str(k): str(v) for k, v in summary["settings"].items()}
        rows = [_row(name, figure) for name, figure in found.items() if math.isfinite(figure["mean"])]
        cases = int(summary["cases"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"--metrics {path}: not the result of an evaluation; {REMEDY}") from None
    if not rows:
        raise ConfigError(f"--metrics {path}: has no figures; {REMEDY}")
    return Figures(
        rows,
        cases,
        settings.get("samples per case", "not stored"),
        settings.get(PIXELS, "not stored"),
        {name: value for name, value in settings.items() if name not in FROM_FILE},
        settings.get("checkpoint", ""),
    )


def _row(name: str, figure: Mapping[str, Any]) -> Figure:
    """A figure of a summary. ValueError: its name is not that of a metric."""
    metric, _ = split_count(name)
    if metric not in DESCRIPTIONS:
        raise ValueError(name)
    low, high = figure["low"], figure["high"]
    interval = "-" if low is None or high is None else f"{float(low):.4f} to {float(high):.4f}"
    return Figure(name, DESCRIPTIONS.get(metric, ""), float(figure["mean"]), interval, int(figure["cases"]))
