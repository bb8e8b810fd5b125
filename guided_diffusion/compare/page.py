"""A comparison's table, as Markdown and as a page with the curves of training."""

import html

# (title, figure); N stands for the number of samples
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
# As many as there are presets; the first seven are Okabe and Ito's
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#b8a800", "#7f7f7f")
WIDTH, HEIGHT, MARGIN, LEGEND = 760, 320, 44, 130

STYLE = """body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 75rem; color: #222; background: #fff; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .scroll { overflow-x: auto; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; } th:first-child, td:first-child { text-align: left; }
small { opacity: .75; } svg { max-width: 100%; } text { font-size: 12px; }"""


def as_rows(table, num_ensemble):
    """(titles, [cells of a method]) of what Comparison.tabulate gives: mean and 95 % interval over the cases of each figure;
    below it the difference from the first method, paired by case, with its interval.
    """
    shown = [(t.replace("N", str(num_ensemble)), f.replace("N", str(num_ensemble))) for t, f in FIGURES]
    shown = [(title, figure) for title, figure in shown if all(figure in row["figures"] for row in table["rows"])]
    titles = [
        "method",
        *(title for title, _ in shown),
        "parameters",
        f"s / {num_ensemble} masks",
        "masks trained on",
        "training, s",
        "learning rates",
    ]
    rows = []
    for row in table["rows"]:
        cells = [[row["method"]]]
        for _, figure in shown:
            cells.append([interval(row["figures"][figure])])
            if figure in row["differences"]:
                cells[-1].append(
                    f"{row['differences'][figure]['mean']:+.3f} [{bounds(row['differences'][figure], '+')}]"
                )
        lr = ", ".join(dict.fromkeys(f"{lr:g}" if lr else "preset's" for lr in row["lrs"]))
        cells += [
            [f"{row['parameters']:,}"],
            [f"{row['seconds']:.2f}"],
            [f"{row['images']:,}"],
            [f"{row['training_seconds']:.0f}"],
            [lr],
        ]
        rows.append(cells)
    return titles, rows


def interval(told):
    """Mean and 95 % interval of a figure."""
    return f"{told['mean']:.3f} [{bounds(told)}]"


def bounds(told, sign=""):
    return "-" if told["low"] is None else f"{told['low']:{sign}.3f}, {told['high']:{sign}.3f}"


def markdown(table, num_ensemble):
    """The table as Markdown."""
    titles, rows = as_rows(table, num_ensemble)
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {' | '.join('<br>'.join(cell) for cell in cells)} |" for cells in rows]
    return "\n".join(lines) + "\n"


def page(table, num_ensemble, score):
    """The table and the curves as one HTML page that opens from a file; `score` is the name of what the curves show."""
    titles, rows = as_rows(table, num_ensemble)
    head = "".join(f'<th scope="col">{html.escape(title)}</th>' for title in titles)
    body = "\n".join(f"<tr>{''.join(map(table_cell, cells))}</tr>" for cells in rows)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Comparison of methods</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>
<body><h1>Comparison of methods</h1>
<p>{table["cases"]} cases; mean and 95 % interval over the cases, and below it the difference from {html.escape(table["rows"][0]["method"])}, paired by case.
<a href="report.html">All figures and cases</a>.</p>
<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table></div>
<h2>While training</h2>
<p>{html.escape(score)} of the validation cases of the first fold against the masks trained on.</p>
{curves(table["rows"], score)}
</body></html>
"""


def table_cell(parts):
    """A cell of the page: its first part, and the others below it in small letters."""
    first, *others = map(html.escape, parts)
    return f"<td>{first}{''.join(f'<br><small>{other}</small>' for other in others)}</td>"


def curves(rows, score):
    """The validation scores of each method against the masks trained on, as SVG."""
    points = {row["method"]: [(p["samples"], p[score]) for p in row["curve"]] for row in rows}
    everything = [point for curve in points.values() for point in curve] or [(1, 1)]
    right, top = max(x for x, _ in everything), max(y for _, y in everything) or 1

    def place(x, y):
        return f"{MARGIN + x / right * (WIDTH - 2 * MARGIN - LEGEND):.1f},{HEIGHT - MARGIN - y / top * (HEIGHT - 2 * MARGIN):.1f}"

    parts = [f'<path d="M{place(0, top)}L{place(0, 0)}L{place(right, 0)}" fill="none" stroke="#888"/>']
    parts += [
        f'<text x="{MARGIN - 4}" y="{y}" text-anchor="end">{told}</text>'
        for y, told in ((MARGIN, f"{top:.2f}"), (HEIGHT - MARGIN, "0"))
    ]
    parts += [
        f'<text x="{WIDTH - MARGIN - LEGEND}" y="{HEIGHT - MARGIN + 16}" text-anchor="end">{right:,.0f} masks</text>'
    ]
    for k, (method, curve) in enumerate(points.items()):
        colour = COLOURS[k % len(COLOURS)]
        line = " ".join(place(*point) for point in curve)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"><title>{html.escape(method)}</title></polyline>'
        )
        parts.append(
            f'<text x="{WIDTH - MARGIN - LEGEND + 12}" y="{MARGIN + 15 * k}" fill="{colour}">{html.escape(method)}</text>'
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img" aria-label="validation while training">{"".join(parts)}</svg>'
