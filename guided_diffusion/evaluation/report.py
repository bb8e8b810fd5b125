"""The report of an evaluation: one HTML page that holds all it shows and opens from a file, offline."""

import base64
import html
import json
import os
import pathlib
import shutil
import string
import tempfile

import numpy as np

from ..masks.metrics import split_count

PAGE = pathlib.Path(__file__).with_name(
    "report.html"
)  # {{summary}}, {{histograms}}, {{names}} and {{cases}} are filled in
LETTERS = string.ascii_uppercase  # the folders of samples, where there are several
BINS, WIDTH, HEIGHT = 20, 220, 90  # of a histogram


class NullReport:
    """Writes nothing."""

    def __init__(self, path):
        self.path = path

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def add(self, case, figures, pictures):
        pass

    def finish(self, summary, descriptions):
        pass


class Report(NullReport):
    """Writes the page at `path`. A case's pictures go to the disk at once, so that memory does not grow with them.

    Use as a context; the page is there after `finish`, in place of an older one.
    """

    def __enter__(self):
        self.cases = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.values = {}  # {figure: [value of each case]}
        return self

    def __exit__(self, *exception):
        self.cases.close()

    def add(self, case, figures, pictures):
        """Take in a case.

        figures   {name: value}, in the order in which they are to be listed
        pictures  {caption: PNG file}
        """
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)
        told = html.escape(json.dumps({name: round(value, 6) for name, value in figures.items()}))
        self.cases.write(
            f'<article data-case="{html.escape(case)}" data-figures="{told}">\n<h3>{html.escape(case)}</h3>\n'
        )
        for caption, picture in pictures.items():
            width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))  # as the PNG's header says
            source = base64.b64encode(picture).decode()
            self.cases.write(
                f'<figure><figcaption>{html.escape(caption)}</figcaption><img alt="{html.escape(case)}: image, mean, '
                f'uncertainty, raters, samples" loading="lazy" width="{width}" height="{height}" '
                f'src="data:image/png;base64,{source}"></figure>\n'
            )
        self.cases.write("</article>\n")

    def finish(self, summary, descriptions):
        """Write the page.

        summary       what summary.summarise gave
        descriptions  {figure: what it is}
        """
        parts = {
            "summary": summary_html(summary, descriptions),
            "histograms": "\n".join(histogram(name, values) for name, values in self.values.items()),
            "names": "\n".join(f"<option>{html.escape(name)}</option>" for name in self.values),
        }
        before, after = PAGE.read_text(encoding="utf-8").split("{{cases}}")
        for name, text in parts.items():
            before = before.replace("{{" + name + "}}", text)
        aside = f"{self.path}.new"
        with open(aside, "w", encoding="utf-8") as page:
            page.write(before)
            self.cases.seek(0)
            shutil.copyfileobj(self.cases, page)
            page.write(after)
        os.replace(aside, self.path)


def legend(summary):
    """What the summary stands for, a line for each folder of samples."""
    folders = (summary, *summary["compared"])
    names = (
        [told["samples"] for told in folders]
        if len(folders) == 1
        else [f"{letter}: {told['samples']}" for letter, told in zip(LETTERS, folders, strict=False)]
    )
    names[0] += f": {summary['cases']} of {summary['of']} cases"
    return names


def as_table(summary):
    """The summary's figures as (titles, {figure: cells}), a cell for each title.

    One folder: mean, standard error, 95 % interval, cases. Several: mean and standard error of each, and for each but
    the first, A, the paired differences from that with their intervals; a figure stands for the same cases in all.
    """
    folders, others = (summary, *summary["compared"]), summary["compared"]
    if not others:
        return ("mean", "s. e.", "95 % from", "to", "cases"), {
            name: [*_cells(told, "mean", "se", "low", "high"), str(told["cases"])]
            for name, told in summary["figures"].items()
        }
    titles = [title for letter in LETTERS[: len(folders)] for title in (letter, "s. e.")]
    titles += [title for letter in LETTERS[1 : len(folders)] for title in (f"{letter} - A", "95 % from", "to")] + [
        "cases"
    ]
    rows = {}
    for name in summary["figures"]:
        own = [_cells(told["figures"][name], "mean", "se") for told in folders]
        paired = [_cells(told["differences"][name], "mean", "low", "high") for told in others]
        rows[name] = [cell for cells in own + paired for cell in cells] + [str(summary["figures"][name]["cases"])]
    return titles, rows


def _cells(told, *keys):
    return [f"{told[key]:.4f}" if told[key] is not None else "-" for key in keys]


def summary_html(summary, descriptions):
    """The summary's table, calibration curves, notes and faults."""
    parts = [f"<p>{html.escape(line)}</p>" for line in legend(summary)] + [table(summary, descriptions)]
    for told in (summary, *summary["compared"]):
        for count, curve in told.get("mode_calibration", {}).items():
            parts.append(calibration_plot(curve, count, told["samples"]))
    for title in ("notes", "faults"):
        if summary[title]:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in summary[title])
            parts.append(f"<h2>{title.capitalize()}</h2>\n<ul>{items}</ul>")
    return "\n".join(parts)


def table(summary, descriptions):
    """The table of `as_table`, with what each figure is."""
    titles, figures = as_table(summary)
    rows = []
    for name, cells in figures.items():
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        what = html.escape(descriptions[split_count(name)[0]])
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{numbers}<td class="what">{what}</td></tr>')
    head = "".join(f'<th scope="col">{title}</th>' for title in ("figure", *titles, ""))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table></div>'


def histogram(name, values):
    """How the cases spread in one figure, as SVG."""
    low, high = min(values), max(values)
    if high - low < 1e-9:  # equal but for rounding, which bins cannot cut up
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(values, BINS, (low, high))
    step, tallest = WIDTH / BINS, max(counts)
    bars = "".join(
        f'<rect x="{k * step:.1f}" y="{HEIGHT * (1 - n / tallest):.1f}" width="{step - 1:.1f}" height="{HEIGHT * n / tallest:.1f}">'
        f"<title>{low:.3f} to {high:.3f}: {n} cases</title></rect>"
        for k, (n, low, high) in enumerate(zip(counts, edges[:-1], edges[1:], strict=True))
    )
    ends = f'<text x="0" y="{HEIGHT + 13}">{edges[0]:.3f}</text><text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{edges[-1]:.3f}</text>'
    return (
        f'<figure class="histogram"><figcaption>{html.escape(name)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 16}" role="img" aria-label="histogram of {html.escape(name)}">{bars}{ends}</svg></figure>'
    )


def calibration_plot(curve, count, samples):
    """How often the modes are drawn in `count` samples of a folder against their true probability, as SVG; the diagonal is right."""
    side = 2 * HEIGHT
    dots = "".join(
        f'<circle cx="{side * b["probability"]:.1f}" cy="{side * (1 - b["frequency"]):.1f}" r="4">'
        f"<title>true {b['probability']:.3f}, drawn {b['frequency']:.3f}, {b['count']} modes</title></circle>"
        for b in curve
    )
    return (
        '<figure class="histogram"><figcaption>'
        f"modes in {count} samples of {html.escape(samples)}: true probability (right), share of the samples (up)</figcaption>"
        f'<svg viewBox="-6 -6 {side + 12} {side + 12}" role="img" aria-label="calibration of the modes">'
        f'<path d="M0 0V{side}H{side}"/><path class="diagonal" d="M0 {side}L{side} 0"/>{dots}</svg></figure>'
    )
