"""The table of a comparison, as Markdown and as a page: the numbers, the curves, and text that is markup."""

import pytest

from guided_diffusion.compare import page


def interval(mean, low=None, high=None):
    return {"mean": mean, "se": None, "low": low, "high": high, "cases": 3}


def method(name, ged, differences, curve):
    return {
        "method": name,
        "figures": {"ged_4": ged},
        "differences": differences,
        "parameters": 12345,
        "seconds": 0.5,
        "images": 40_000,
        "training_seconds": 33.3,
        "lrs": [0.001, None, 0.001],
        "curve": [{"samples": samples, "ged_4": score} for samples, score in curve],
    }


@pytest.fixture
def table():
    first = method("cimd", interval(0.3), {}, [(1000, 0.4), (2000, 0.2)])
    difference = {"ged_4": interval(-0.02, -0.06, 0.01)}
    return {"cases": 3, "rows": [first, method("a<b>&", interval(0.28, 0.2, 0.35), difference, [(2000, 0.3)])]}


def test_markdown_has_a_row_for_each_method(table):
    titles, rule, first, second = page.markdown(table, 4).splitlines()
    assert (
        titles.startswith("| method | GED_4 | parameters | s / 4 masks |") and rule == "|---|---|---|---|---|---|---|"
    )
    assert first == "| cimd | 0.300 [-] | 12,345 | 0.50 | 40,000 | 33 | 0.001, preset's |"
    assert "| 0.280 [0.200, 0.350]<br>-0.020 [-0.060, +0.010] |" in second


def test_the_curves_end_at_the_last_mask_and_the_highest_score(table):
    plot = page.curves(table["rows"], "ged_4")
    assert (plot.most, plot.highest) == (2000, 0.4)
    middle, last = (plot.left + plot.right) / 2, plot.right
    heights = [plot.bottom - (plot.bottom - plot.top) * share for share in (1, 0.5, 0.75)]
    assert plot.curves[0].points == f"{middle:.1f},{heights[0]:.1f} {last:.1f},{heights[1]:.1f}"
    assert plot.curves[1].points == f"{last:.1f},{heights[2]:.1f}"


def test_names_are_text_on_the_page_whatever_they_hold(table):
    html = page.page(table, 4, "ged_4")
    assert "a<b>" not in html and html.count("a&lt;b&gt;&amp;") == 3
    assert html.count("<polyline") == 2 and "3 cases. Mean" in html


def test_a_comparison_without_validation_has_an_empty_plot(table):
    for row in table["rows"]:
        row["curve"] = []
    assert page.page(table, 4, "ged_4").count('<polyline points=""') == 2
