"""The report of an evaluation: one HTML page that holds all it shows and opens from a file, offline."""

import base64
import html
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np

from .metrics import split_count

PAGE = pathlib.Path(__file__).with_name("report.html")  # {{summary}}, {{histograms}}, {{names}} and {{cases}} are filled in
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
    """
    Writes the page at `path`. A case's pictures go to the disk at once, so that memory does not grow with them.

    Use as a context; the page is there after `finish`, in place of an older one.
    """

    def __enter__(self):
        self.cases = tempfile.TemporaryFile("w+", encoding="utf-8")
        self.values = {}  # {figure: [value of each case]}
        return self

    def __exit__(self, *exception):
        self.cases.close()

    def add(self, case, figures, pictures):
        """
        Take in a case.

        figures   {name: value}, in the order in which they are to be listed
        pictures  {caption: PNG file}
        """
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)
        told = html.escape(json.dumps({name: round(value, 6) for name, value in figures.items()}))
        self.cases.write(f'<article data-case="{html.escape(case)}" data-figures="{told}">\n<h3>{html.escape(case)}</h3>\n')
        for caption, picture in pictures.items():
            width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))  # as the PNG's header says
            source = base64.b64encode(picture).decode()
            self.cases.write(
                f'<figure><figcaption>{html.escape(caption)}</figcaption><img alt="{html.escape(case)}: image, mean, '
                f'uncertainty, raters, samples" loading="lazy" width="{width}" height="{height}" '
                f'src="data:image/png;base64,{source}"></figure>\n'
            )
        self.cases.write("</article>\n")

    def finish(self, summary, descriptions):
        """
        Write the page.

        summary       what evaluation.summarise gave
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


def summary_html(summary, descriptions):
    """The summary's tables, calibration curves, notes and faults."""
    parts = []
    for told in (summary, *summary["compared"]):
        parts.append(f"<h2>{html.escape(told['samples'])}</h2>\n<p>{told['cases']} of {summary['of']} cases</p>")
        parts.append(table(told["figures"], descriptions))
        if "calibration" in told:
            parts.append(calibration_plot(told["calibration"]))
    for told in summary["compared"]:
        title = f"{told['samples']} less {summary['samples']}"
        parts.append(f"<h2>{html.escape(title)}</h2>\n<p>Paired by case.</p>")
        parts.append(table(told["differences"], descriptions))
    for title in ("notes", "faults"):
        if summary[title]:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in summary[title])
            parts.append(f"<h2>{title.capitalize()}</h2>\n<ul>{items}</ul>")
    return "\n".join(parts)


def table(figures, descriptions):
    """A table of {name: mean_and_interval}."""
    rows = []
    for name, told in figures.items():
        numbers = [f"{told[key]:.4f}" if told[key] is not None else "-" for key in ("mean", "se", "low", "high")]
        cells = "".join(f"<td>{number}</td>" for number in (*numbers, told["cases"]))
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{cells}<td class="what">{html.escape(descriptions[split_count(name)[0]])}</td></tr>')
    head = "".join(f'<th scope="col">{title}</th>' for title in ("figure", "mean", "s. e.", "95 % from", "to", "cases", ""))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n</tbody></table></div>'


def histogram(name, values):
    """How the cases spread in one figure, as SVG."""
    counts, edges = np.histogram(values, BINS)
    step, tallest = WIDTH / BINS, max(counts)
    bars = "".join(
        f'<rect x="{k * step:.1f}" y="{HEIGHT * (1 - n / tallest):.1f}" width="{step - 1:.1f}" height="{HEIGHT * n / tallest:.1f}">'
        f"<title>{low:.3f} to {high:.3f}: {n} cases</title></rect>"
        for k, (n, low, high) in enumerate(zip(counts, edges[:-1], edges[1:]))
    )
    ends = f'<text x="0" y="{HEIGHT + 13}">{edges[0]:.3f}</text><text x="{WIDTH}" y="{HEIGHT + 13}" text-anchor="end">{edges[-1]:.3f}</text>'
    return (
        f'<figure class="histogram"><figcaption>{html.escape(name)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT + 16}" role="img" aria-label="histogram of {html.escape(name)}">{bars}{ends}</svg></figure>'
    )


def calibration_plot(curve):
    """How often the modes are drawn against their true probability, as SVG; the diagonal is right."""
    side = 2 * HEIGHT
    dots = "".join(
        f'<circle cx="{side * b["probability"]:.1f}" cy="{side * (1 - b["frequency"]):.1f}" r="4">'
        f"<title>true {b['probability']:.3f}, drawn {b['frequency']:.3f}, {b['count']} modes</title></circle>"
        for b in curve
    )
    return (
        '<figure class="histogram"><figcaption>modes: true probability (right), share of the samples (up)</figcaption>'
        f'<svg viewBox="-6 -6 {side + 12} {side + 12}" role="img" aria-label="calibration of the modes">'
        f'<path d="M0 0V{side}H{side}"/><path class="diagonal" d="M0 {side}L{side} 0"/>{dots}</svg></figure>'
    )
