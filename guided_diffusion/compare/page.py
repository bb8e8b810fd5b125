"""The table of a comparison as Markdown, and as an HTML page with training curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from ..evaluation.table import Interval
from ..evaluation.templates import load_template

PAGE = Path(__file__).with_name("page.html")
# (title, metric); N stands for the number of samples
FIGURES = (
    ("GED_N", "ged_N"),
    ("unbiased", "ged_unbiased_N"),
    ("excess", "ged_excess_N"),
    ("mode TV", "mode_tv_N"),
    ("HM-IoU_N", "hm_iou_N"),
    ("D_max", "max_dice_N"),
    ("CI", "ci_N"),
    ("diversity", "diversity_N"),
)
# One per preset; the first seven are the Okabe-Ito palette
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800", "#7f7f7f")
WIDTH, HEIGHT, MARGIN, LEGEND = 760, 320, 44, 130


class Method(TypedDict):
    """A method's row of the table."""

    method: str
    figures: dict[str, Interval]  # {metric: mean and interval}
    differences: dict[str, Interval]  # from the first method, paired by case; empty for the first
    parameters: int
    seconds: float  # to sample the masks of a case
    images: int  # masks trained on
    training_seconds: float
    lrs: list[float | None]  # per fold; None: the preset's
    curve: list[dict[str, float]]  # {"samples": masks trained on, name: score}, of the first fold


class Table(TypedDict):
    """The results of a comparison."""

    cases: int
    rows: list[Method]


def as_rows(table: Table, num_ensemble: int) -> tuple[list[str], list[list[list[str]]]]:
    """Return (titles, rows); a row has a cell per title, and a cell is a list of lines.

    The cell of a metric has the mean and 95 % interval over the cases; the second line is the difference from the first
    method, paired by case, with its interval.
    """
    shown = [(t.replace("N", str(num_ensemble)), f.replace("N", str(num_ensemble))) for t, f in FIGURES]
    shown = [(title, figure) for title, figure in shown if all(figure in row["figures"] for row in table["rows"])]
    titles = ["method", *(title for title, _ in shown), "parameters", f"s / {num_ensemble} masks"]
    titles += ["masks trained on", "training, s", "learning rates"]
    rows = []
    for row in table["rows"]:
        rates = dict.fromkeys(f"{lr:g}" if lr else "preset's" for lr in row["lrs"])
        rows.append(
            [
                [row["method"]],
                *(figure_cell(row, figure) for _, figure in shown),
                [f"{row['parameters']:,}"],
                [f"{row['seconds']:.2f}"],
                [f"{row['images']:,}"],
                [f"{row['training_seconds']:.0f}"],
                [", ".join(rates)],
            ]
        )
    return titles, rows


def figure_cell(row: Method, figure: str) -> list[str]:
    """The cell of a method's metric, with the difference from the first method."""
    own = row["figures"][figure]
    lines = [f"{own['mean']:.3f} [{bounds(own)}]"]
    if difference := row["differences"].get(figure):
        lines.append(f"{difference['mean']:+.3f} [{bounds(difference, '+')}]")
    return lines


def bounds(interval: Interval, sign: str = "") -> str:
    """The bounds of a 95 % interval; "-" if there is none."""
    return "-" if interval["low"] is None else f"{interval['low']:{sign}.3f}, {interval['high']:{sign}.3f}"


def markdown(table: Table, num_ensemble: int) -> str:
    """The table as Markdown."""
    titles, rows = as_rows(table, num_ensemble)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join('<br>'.join(cell) for cell in cells)} |" for cells in rows]
    return "\n".join(lines) + "\n"


def page(table: Table, num_ensemble: int, score: str) -> str:
    """The table and the training curves as a self-contained HTML page; `score` names the metric of the curves."""
    titles, rows = as_rows(table, num_ensemble)
    return load_template(PAGE).render(
        cases=table["cases"], titles=titles, rows=rows, score=score, plot=curves(table["rows"], score)
    )


class Curve(NamedTuple):
    """A method's curve in the plot."""

    method: str
    colour: str
    points: str  # of a polyline, pixels
    label_y: int


class Plot(NamedTuple):
    """The validation scores of each method against the number of masks trained on; coordinates in pixels."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int
    highest: float  # score
    most: float  # largest number of masks trained on
    curves: list[Curve]


def curves(rows: Sequence[Method], score: str) -> Plot:
    """The plot of the validation scores."""
    points = [[(p["samples"], p[score]) for p in row["curve"]] for row in rows]
    everything = [point for curve in points for point in curve] or [(1, 1)]
    most, highest = max(x for x, _ in everything), max(y for _, y in everything) or 1
    right, bottom = WIDTH - MARGIN - LEGEND, HEIGHT - MARGIN

    def place(x: float, y: float) -> str:
        return f"{MARGIN + x / most * (right - MARGIN):.1f},{bottom - y / highest * (bottom - MARGIN):.1f}"

    lines = [
        Curve(row["method"], COLOURS[k % len(COLOURS)], " ".join(place(*point) for point in curve), MARGIN + 15 * k)
        for k, (row, curve) in enumerate(zip(rows, points, strict=True))
    ]
    return Plot(WIDTH, HEIGHT, MARGIN, right, MARGIN, bottom, highest, most, lines)
