"""The table of a comparison, from the output of its stages."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any

from ..logger import read_rows
from .page import Method, Table

SCORED = 8  # masks per case in validation


def tabulate(out_dir: str, methods: Sequence[str]) -> Table:
    """The results of all methods: metrics, and their differences from the first method."""
    with open(os.path.join(out_dir, "metrics.json"), encoding="utf-8") as file:
        summary = json.load(file)
    rows: list[Method] = []
    for method, scored in zip(methods, (summary, *summary["compared"]), strict=True):
        with open(os.path.join(out_dir, method, "result.json"), encoding="utf-8") as file:
            row: Method = json.load(file)
        rows.append({**row, "figures": scored["figures"], "differences": scored.get("differences", {})})
    return {"cases": summary["cases"], "rows": rows}


def training_of(folder: str) -> dict[str, Any]:
    """{"training_seconds", "curve": [{"samples", "ged_8"}]} of a run; excludes the time of validation and of stops."""
    rows = read_rows(os.path.join(folder, "progress.csv"))
    seconds, before = 0.0, 0
    for row in filter(lambda row: row["samples_per_second"], rows):
        seconds += (int(row["samples"]) - before) / float(row["samples_per_second"])
        before = int(row["samples"])
    score = f"ged_{SCORED}"
    scored = [row for row in rows if math.isfinite(float(row.get(score) or "nan"))]
    curve = [{name: float(row[name]) for name in ("samples", score)} for row in scored]
    return {"training_seconds": seconds, "curve": curve}
