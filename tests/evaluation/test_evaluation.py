"""Scoring folders of samples: figures written, faults named, folders compared, and the page in a real browser."""

import csv
import io
import json
import re
import shutil

import numpy as np
import pytest
from helpers import assert_refused, call_script, read_image, read_label
from PIL import Image

from guided_diffusion.errors import DataError
from guided_diffusion.evaluation import report
from guided_diffusion.evaluation.faults import group_faults
from guided_diffusion.evaluation.summary import mean_and_interval
from guided_diffusion.evaluation.table import as_table
from guided_diffusion.masks import metrics, pictures
from guided_diffusion.prepare.phantoms import phantom
from guided_diffusion.sampling import store

CASES, RATERS, SIZE = 5, 3, 24


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    phantom.write_set(folder, CASES, seed=9, size=SIZE, num_raters=RATERS)
    return folder


def names(data):
    return sorted(path.name for path in data.glob("phantom*"))


def raters_of(data, name):
    return np.stack([read_label(str(data / name / f"label{k}_.png")) for k in range(RATERS)])


def write_masks(folder, name, masks):
    """Masks as any program writes them."""
    folder.mkdir(exist_ok=True)
    for k, mask in enumerate(masks):
        Image.fromarray(mask).save(folder / f"{name}_output{k}.png")


@pytest.fixture
def samples(data, tmp_path):
    """Six masks of each case, from its modes at random."""
    rng = np.random.default_rng(0)
    for name in names(data):
        modes = [read_label(str(data / name / f"mode_{mode}.png")) for mode in phantom.MODES]
        write_masks(tmp_path / "samples", name, [modes[k] for k in rng.integers(0, 4, size=6)])
    return tmp_path / "samples"


def masks_of(samples, name, count=6):
    return np.stack([read_label(str(samples / f"{name}_output{k}.png")) for k in range(count)])


def evaluate(data, samples, *more):
    return call_script("segmentation_evaluate", f"--data_dir={data}", f"--samples={samples}", *more)


def rows_of(folder):
    with open(folder / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


# -- figures ----------------------------------------------------------------------------------------------------------


def test_figures_at_several_counts(data, samples):
    done = evaluate(data, samples, "--counts=2,6", "--report=False")
    assert done.returncode == 0, done.stderr
    summary, rows = json.loads((samples / "metrics.json").read_text()), rows_of(samples)
    assert [row["case"] for row in rows] == names(data)
    for row in rows:
        raters = raters_of(data, row["case"])
        for count in (2, 6):
            expected = metrics.all_figures(masks_of(samples, row["case"], count), raters)
            assert set(expected) == set(metrics.FIGURES)
            for name, value in expected.items():
                assert float(row[f"{name}_{count}"]) == pytest.approx(float(value), abs=1e-9), name
        majority = metrics.squared_ged(metrics.majority_vote(raters)[None], raters).total
        assert float(row["ged_less_majority_6"]) == pytest.approx(float(row["ged_6"]) - majority)

    values = np.array([float(row["ged_6"]) for row in rows])
    figure = summary["figures"]["ged_6"]
    assert figure["mean"] == pytest.approx(values.mean()) and figure["cases"] == CASES
    assert figure["se"] == pytest.approx(values.std(ddof=1) / np.sqrt(CASES))
    assert values.min() <= figure["low"] < figure["mean"] < figure["high"] <= values.max()
    assert f"{figure['mean']:.4f}" in done.stdout and "5 of 5 cases" in done.stdout
    assert not (samples / "report.html").exists()


def test_a_single_rater_leaves_out_what_needs_two(data, samples, tmp_path):
    """Its case counts for all other metrics, and each metric states how many cases it covers."""
    fewer = tmp_path / "fewer"
    shutil.copytree(data, fewer)
    alone = names(data)[0]
    for k in range(1, RATERS):
        (fewer / alone / f"label{k}_.png").unlink()
    undefined = {f"{name}_6" for name in ("ged_unbiased", *metrics.OF_SEVERAL_RATERS)} | {"rater_diversity"}
    done = evaluate(fewer, samples, f"--out_dir={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    figures, rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["figures"], rows_of(tmp_path / "out")
    assert {name for name, figure in figures.items() if figure["cases"] == CASES - 1} == undefined
    assert {figure["cases"] for figure in figures.values()} == {CASES, CASES - 1}
    for name in undefined:
        assert rows[0]["case"] == alone and rows[0][name] == ""
        assert figures[name]["mean"] == pytest.approx(np.mean([float(row[name]) for row in rows[1:]]))
        (line,) = [line for line in done.stdout.splitlines() if line.split()[0] == name]
        assert line.split()[-1] == str(CASES - 1)
    page = (tmp_path / "out" / "report.html").read_text()
    assert f">{CASES - 1}<" in page


def test_a_set_of_single_raters_has_no_metric_of_several(data, samples, tmp_path):
    single = tmp_path / "single"
    shutil.copytree(data, single)
    for path in [path for k in range(1, RATERS) for path in single.glob(f"*/label{k}_.png")]:
        path.unlink()
    done = evaluate(single, samples, f"--compare={shutil.copytree(samples, tmp_path / 'same')}")
    assert done.returncode == 0, done.stderr
    figures = json.loads((samples / "metrics.json").read_text())["figures"]
    assert "ged_6" in figures and not {"ci_6", "agreement_6", "rater_diversity", "ged_unbiased_6"} & figures.keys()


def test_the_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    intervals = [mean_and_interval(rng.exponential(size=60)) for _ in range(200)]
    covered = np.mean([t["low"] <= 1 <= t["high"] for t in intervals])
    assert 0.88 <= covered <= 0.99


def test_the_threshold_of_raw_samples_is_their_own_or_the_one_given(data, tmp_path):
    name = names(data)[0]
    soft = np.linspace(0, 1, SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE)
    np.savez(tmp_path / f"{name}_samples.npz", samples=soft, threshold=0.9)
    for flags, share in (([], 0.9), (["--threshold=0.25"], 0.25)):
        done = evaluate(data, tmp_path, "--report=False", *flags)
        assert done.returncode == 0, done.stderr
        raters = raters_of(data, name)
        assert float(rows_of(tmp_path)[0]["ged_1"]) == pytest.approx(metrics.squared_ged(soft > share, raters).total)


def test_known_truth(data, samples):
    done = evaluate(data, samples, "--counts=6", f"--truth={data / 'truth.json'}", "--report=False")
    assert done.returncode == 0, done.stderr
    summary = json.loads((samples / "metrics.json").read_text())
    figures = {name: figure["mean"] for name, figure in summary["figures"].items()}
    assert figures["implausible_6"] == 0  # the samples are modes
    assert figures["ged_excess_6"] == pytest.approx(figures["ged_6"] - figures["ged_of_truth_6"])
    assert (
        0.1 < figures["mode_tv_of_perfect_6"] < figures["mode_tv_6"]
    )  # modes at even chances are not those of the truth
    assert sum(point["count"] for point in summary["mode_calibration"]["6"]) == 4 * CASES

    for name in names(data):  # noise is no mode
        write_masks(samples, name, np.random.default_rng(1).random((6, SIZE, SIZE)) > 0.5)
    assert evaluate(data, samples, f"--truth={data / 'truth.json'}", "--report=False").returncode == 0
    figures = json.loads((samples / "metrics.json").read_text())["figures"]
    assert figures["implausible_6"]["mean"] == 1 and figures["mode_tv_6"]["mean"] == 1
    assert_refused(evaluate(data, samples, "--truth=/nowhere.json"), "/nowhere.json", "--truth")


def test_folders_are_compared_in_pairs(data, samples, tmp_path):
    better = tmp_path / "better"
    for name in names(data)[:4]:  # the fifth case is in one folder only
        write_masks(better, name, np.repeat(raters_of(data, name), 2, axis=0))
    done = evaluate(data, samples, f"--compare={better}", f"--out_dir={tmp_path / 'both'}")
    assert done.returncode == 0, done.stderr
    summary, rows = json.loads((tmp_path / "both" / "metrics.json").read_text()), rows_of(tmp_path / "both")
    (other,) = summary["compared"]
    assert other["samples"] == str(better) and other["cases"] == summary["cases"] == 4 and summary["of"] == 5
    assert other["figures"]["ged_6"]["mean"] == pytest.approx(0)
    ged = {(row["case"], row["samples"]): float(row["ged_6"]) for row in rows}
    differences = [ged[name, str(better)] - ged[name, str(samples)] for name in names(data)[:4]]
    paired = other["differences"]["ged_6"]
    assert paired["mean"] == pytest.approx(np.mean(differences)) and paired["cases"] == 4
    assert paired == mean_and_interval(differences)
    titles, cells = as_table(summary)
    assert list(titles) == ["A", "s. e.", "B", "s. e.", "B - A", "95 % from", "to", "cases"]
    own = summary["figures"]["ged_6"]
    assert own["mean"] == pytest.approx(np.mean([ged[name, str(samples)] for name in names(data)[:4]]))
    shown = [own["mean"], own["se"], 0, 0, paired["mean"], paired["low"], paired["high"]]
    assert cells["ged_6"] == [*(f"{value or 0:.4f}" for value in shown), "4"]
    assert f"A: {samples}: 4 of 5 cases" in done.stdout and f"B: {better}" in done.stdout
    assert "".join(f"{cell:>10s}" for cell in cells["ged_6"]) in done.stdout
    page = (tmp_path / "both" / "report.html").read_text()
    assert page.count("<figcaption>" + str(better)) == 4
    assert f"{names(data)[4]}: no samples in {better}" in done.stdout
    assert not (samples / "metrics.csv").exists()


def own_samples(folder, data, size, pad=False, **flags):
    """Samples as this program writes them, of images that are resized to a size."""
    folder.mkdir()
    made = {"image_size": size, "pad": pad, "grey": False, **flags}
    for name in names(data):
        np.savez(folder / f"{name}_samples.npz", samples=np.zeros((2, size, size), np.float32), flags=json.dumps(made))
    return folder


def test_folders_of_one_size_are_compared_at_that_size_and_it_is_named(data, tmp_path):
    """Masks of another program, which stores no flags, are scored against the same raters' masks as ours."""
    own, other = own_samples(tmp_path / "own", data, 16), tmp_path / "other"
    for name in names(data):
        write_masks(other, name, np.zeros((2, 16, 16), dtype=bool))
    for first, second in ((own, other), (other, own)):
        done = evaluate(data, first, f"--compare={second}", f"--out_dir={tmp_path / 'out'}", "--report=False")
        assert done.returncode == 0, done.stderr
        assert f"A: {first}: 5 of 5 cases, scored at {SIZE}x{SIZE} pixels, the cases' own size" in done.stdout
        summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
        (compared,) = summary["compared"]
        assert summary["settings"]["pixels"] == compared["settings"]["pixels"] == f"{SIZE}x{SIZE}"
        assert compared["figures"]["ged_2"] == summary["figures"]["ged_2"]  # all masks are empty


def test_folders_of_different_sizes_are_compared_at_the_cases_own_size_only(data, samples, tmp_path):
    small, large = own_samples(tmp_path / "small", data, 16), own_samples(tmp_path / "large", data, 32)
    for first, second in ((small, large), (samples, small), (large, samples)):
        done = evaluate(data, first, f"--compare={second}", "--report=False", "--output_size=network")
        assert_refused(done, "--compare: the samples of", str(first), str(second), "use --output_size own")
        assert not (first / "metrics.json").exists()
        done = evaluate(data, first, f"--compare={second}", "--report=False", "--counts=2")
        assert done.returncode == 0, done.stderr
        (first / "metrics.json").unlink()
    write_masks(tmp_path / "odd", names(data)[0], np.zeros((2, 7, SIZE), dtype=bool))  # the fault of one case
    for name in names(data)[1:]:
        write_masks(tmp_path / "odd", name, np.zeros((2, SIZE, SIZE), dtype=bool))
    done = evaluate(data, samples, f"--compare={tmp_path / 'odd'}", "--report=False", "--counts=2")
    assert done.returncode == 0 and "4 of 5 cases" in done.stdout and f"{SIZE}x7 pixels" in done.stdout


def test_folders_drawn_with_different_data_flags_are_refused_where_the_raters_differ(data, tmp_path):
    wide = tmp_path / "wide"
    for name in names(data):
        (wide / name).mkdir(parents=True)
        for path in (data / name).glob("[il]*.png"):
            picture = Image.open(path)
            picture.crop((0, 4, SIZE, SIZE - 4)).save(wide / name / path.name)
    stretched, padded = own_samples(tmp_path / "a", data, 16), own_samples(tmp_path / "b", data, 16, pad=True)
    refused = evaluate(wide, stretched, f"--compare={padded}", "--report=False", "--output_size=network")
    assert_refused(refused, f"{stretched} and {padded}", "different raters' masks", "--pad False and True", "draw both")
    done = evaluate(wide, stretched, f"--compare={padded}", "--report=False")  # against the raters as in their files
    assert done.returncode == 0, done.stderr
    done = evaluate(data, stretched, f"--compare={padded}", "--report=False")  # squares are read alike
    assert done.returncode == 0, done.stderr


def test_a_figure_is_compared_over_the_cases_that_have_it_in_every_folder(data, samples, tmp_path):
    fewer = tmp_path / "fewer"
    for k, name in enumerate(names(data)):
        write_masks(fewer, name, raters_of(data, name)[[0, 1, 2, 0, 1, 2]] if k else raters_of(data, name))
    done = evaluate(
        data, samples, "--counts=3,6", f"--compare={fewer}", f"--out_dir={tmp_path / 'both'}", "--report=False"
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "both" / "metrics.json").read_text())
    (other,) = summary["compared"]
    for count, cases in ((3, 5), (6, 4)):
        a, b, difference = (
            part[f"ged_{count}"] for part in (summary["figures"], other["figures"], other["differences"])
        )
        assert a["cases"] == b["cases"] == difference["cases"] == cases
        assert b["mean"] - a["mean"] == pytest.approx(difference["mean"])


def test_cases_that_differ_by_rounding_alone_have_a_page(data, samples):
    for name in names(data):  # no sample is a mode, so that every case has the same figures but for rounding
        write_masks(samples, name, np.ones((6, SIZE, SIZE), dtype=bool))
    done = evaluate(data, samples, f"--truth={data / 'truth.json'}")
    assert done.returncode == 0, done.stderr
    assert 'aria-label="histogram of mode_tv_6"' in (samples / "report.html").read_text()
    for values in ([1.0, 1 - 1e-16], [0.0, 0.0], [0.3]):
        assert len(report.histogram("x", values).bars) == report.BINS


def test_what_lies_beside_the_cases_is_reported(data, samples):
    write_masks(samples, "stranger", np.zeros((2, SIZE, SIZE), dtype=bool))
    for k in (4, 5):
        (samples / f"{names(data)[0]}_output{k}.png").unlink()
    (samples / f"{names(data)[1]}_output2.png").unlink()
    done = evaluate(data, samples, "--report=False")
    assert f"{samples} has samples of 1 cases that are not in {data}, for example stranger" in done.stdout
    assert "different numbers of samples (1 of 4, 3 of 6): use --counts 4" in done.stdout
    assert f"{names(data)[1]}: {samples}/{names(data)[1]}_output2.png is missing" in done.stdout


def test_folders_with_different_numbers_of_samples_are_reported(data, samples, tmp_path):
    for name in names(data):
        write_masks(tmp_path, name, masks_of(samples, name, 4))
    done = evaluate(data, samples, f"--compare={tmp_path}", "--report=False")
    note = f"different numbers of samples (6 in {samples}, 4 in {tmp_path}), so their metrics cannot be compared; use "
    assert f"{note}--counts 4" in done.stdout
    done = evaluate(data, samples, f"--compare={tmp_path}", "--report=False", "--counts=4")
    assert done.returncode == 0 and "cannot be compared" not in done.stdout


# -- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["no modes", "size", "probability"])
def test_a_truth_that_cannot_be_is_the_cases_fault(data, samples, tmp_path, fault):
    truth = json.loads((data / "truth.json").read_text())
    modes = truth["cases"][names(data)[0]]["modes"]
    for case in truth["cases"].values():
        for mode in case["modes"].values():
            mode["mask"] = str(data / mode["mask"])
    if fault == "no modes":
        modes.clear()
    elif fault == "size":
        Image.fromarray(np.zeros((3, 3), dtype=bool)).save(tmp_path / "small.png")
        modes["tight"]["mask"] = str(tmp_path / "small.png")
    else:
        modes["tight"]["probability"], modes["loose"]["probability"] = -0.5, 1.5
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    done = evaluate(data, samples, f"--truth={tmp_path / 'truth.json'}", "--report=False")
    assert done.returncode == 0 and "4 of 5 cases" in done.stdout, done.stderr
    (line,) = json.loads((samples / "metrics.json").read_text())["faults"]
    assert line.startswith(names(data)[0]) and fault.split()[-1] in line


def test_the_truth_of_another_set_is_reported(data, samples, tmp_path):
    phantom.write_set(tmp_path / "other", CASES, seed=10, size=SIZE, num_raters=1)
    done = evaluate(data, samples, f"--truth={tmp_path / 'other' / 'truth.json'}", "--report=False")
    assert (
        "a rater's mask matches no mode in" in done.stdout + done.stderr
        and "check that --truth belongs to these cases" in done.stdout + done.stderr
    )


def test_a_compressed_file_with_a_flipped_bit_is_named_whichever_bit(data, samples):
    path = samples / f"{names(data)[0]}_samples.npz"
    np.savez_compressed(path, samples=np.random.default_rng(0).random((2, SIZE, SIZE)).astype(np.float32))
    whole = path.read_bytes()
    for place in np.random.default_rng(1).integers(0, len(whole), 400):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            store.find_samples(str(samples), names(data)[0], lambda: None)
        except DataError as error:
            assert str(path) in str(error)


def test_faults_are_named_and_the_other_cases_are_scored(data, samples, tmp_path):
    broken, names_ = tmp_path / "data", names(data)
    shutil.copytree(data, broken)
    for path in samples.glob(f"{names_[0]}_*"):  # without samples
        path.unlink()
    for path in (broken / names_[1]).glob("label*"):  # without raters
        path.unlink()
    write_masks(samples, names_[2], np.zeros((6, 7, SIZE), dtype=bool))  # of another size
    Image.fromarray(np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)).save(
        samples / f"{names_[3]}_output1.png"
    )
    done = evaluate(broken, samples)
    assert done.returncode == 0, done.stderr
    summary = json.loads((samples / "metrics.json").read_text())
    assert summary["cases"] == 1 and summary["of"] == 5 and summary["figures"]["ged_6"]["cases"] == 1
    assert summary["figures"]["ged_6"]["se"] is None
    assert "1 of 5 cases" in done.stdout
    expected = ["no samples", "no label", f"{SIZE}x7", "_output1.png"]
    assert len(summary["faults"]) == 4
    for name, words, fault in zip(names_[:4], expected, summary["faults"], strict=True):
        assert fault.startswith(name) and words in fault and fault in done.stdout
    assert summary["faults"][0] in (samples / "report.html").read_text()


@pytest.mark.parametrize(
    "content, words",
    [
        ({"samples": np.full((2, SIZE, SIZE), np.nan)}, "NaN"),
        ({"samples": np.full((2, SIZE, SIZE), 255)}, "masks must be"),
        ({"samples": np.zeros((2, SIZE, SIZE, 3))}, "shape"),
        ({"samples": np.zeros((0, SIZE, SIZE))}, "shape"),
        ({"masks": np.zeros((2, SIZE, SIZE))}, "not a file of samples"),
        ({"samples": np.zeros((2, SIZE, SIZE)), "threshold": 5}, "threshold 5"),
        ({"samples": np.zeros((2, SIZE, SIZE)), "median_blur": 2}, "median_blur 2"),
        ({"samples": np.zeros((2, SIZE, SIZE)), "threshold": "high"}, "invalid stored flags"),
        ({"samples": np.zeros((2, SIZE, SIZE)), "flags": "mine"}, "flags"),
        (None, "damaged"),
    ],
)
def test_samples_that_are_no_masks(data, samples, content, words):
    path = samples / f"{names(data)[0]}_samples.npz"
    np.savez(path, **content) if content else path.write_bytes(b"PK\x03\x04 cut off")
    done = evaluate(data, samples, "--report=False")
    assert done.returncode == 0 and "4 of 5 cases" in done.stdout
    (fault,) = json.loads((samples / "metrics.json").read_text())["faults"]
    assert fault.startswith(names(data)[0]) and words in fault


def test_counts_larger_than_the_samples_at_hand(data, samples):
    for k in (4, 5):
        (samples / f"{names(data)[0]}_output{k}.png").unlink()
    done = evaluate(data, samples, "--counts=4,6", "--report=False")
    assert done.returncode == 0, done.stderr
    summary = json.loads((samples / "metrics.json").read_text())
    assert summary["figures"]["ged_4"]["cases"] == 5 and summary["figures"]["ged_6"]["cases"] == 4
    assert rows_of(samples)[0]["ged_6"] == ""
    assert summary["faults"] == [f"{names(data)[0]}: only 4 samples in {samples}, fewer than --counts 6"]
    assert_refused(evaluate(data, samples, "--counts=50"), "none of the 5 cases", "only 6 samples", "--counts 50")


def test_refusals(data, samples, tmp_path):
    for flags, words in [
        (["--samples=/nowhere"], ["/nowhere", "--samples"]),
        (["--data_dir=/nowhere"], ["/nowhere"]),
        (["--counts=0"], ["--counts 0"]),
        (["--counts=4,x"], ["--counts x", "an integer"]),
        (["--mode_iou=2"], ["--mode_iou 2"]),
        (["--median_blur=2"], ["--median_blur 2", "odd"]),
        ([f"--compare={samples}"], ["--compare", "twice"]),
        ([f"--samples={data}"], ["none of the 5 cases", "no samples"]),
    ]:
        assert_refused(evaluate(data, samples, "--report=False", *flags), *words)


# -- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def page(browser, data, samples):
    """The page of an evaluation, opened from its file in a browser without a network."""
    assert evaluate(data, samples, "--counts=2,6", f"--truth={data / 'truth.json'}").returncode == 0
    context = browser.new_context(offline=True)
    page = context.new_page()
    complaints = []
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: complaints.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    page.goto((samples / "report.html").as_uri())
    yield page
    assert complaints == []
    context.close()


def shown(page):
    return page.locator("article h3").all_inner_texts()


def test_page_shows_every_case_and_the_figures(page, data, samples):
    assert shown(page) == names(data)
    assert page.inner_text("#shown") == "5 of 5 cases"
    mean = json.loads((samples / "metrics.json").read_text())["figures"]["ged_6"]["mean"]
    row = page.locator("tr", has=page.locator("th", has_text="ged_6")).first
    assert row.locator("td").first.inner_text() == f"{mean:.4f}"
    bars = page.locator('svg[aria-label="histogram of ged_6"] rect title').all_text_contents()
    assert sum(int(bar.split(": ")[1].split()[0]) for bar in bars) == CASES
    assert page.locator('svg[aria-label="calibration of the modes"] circle').count() >= 1


def test_page_begins_with_the_main_result(page, samples):
    figures = json.loads((samples / "metrics.json").read_text())["figures"]
    headline = page.locator(".headline")
    assert headline.count() == 1 and "(GED) of 6 samples" in headline.inner_text()  # the larger of --counts
    ged, majority, difference = (figures[name] for name in ("ged_6", "ged_of_majority", "ged_less_majority_6"))
    number = page.inner_text(".number")
    assert number == f"{ged['mean']:.3f} 95 % interval [{ged['low']:.3f}, {ged['high']:.3f}]"
    assert f"scores {majority['mean']:.3f}. Difference: {difference['mean']:+.3f} [" in headline.inner_text()
    assert f"A perfect sampler would score {figures['ged_of_truth_6']['mean']:.3f}." in headline.inner_text()
    places = [page.locator(place).bounding_box()["y"] for place in (".headline", "#legend", "#cases", "#histograms")]
    assert places == sorted(places)
    assert page.locator("#legend .chip").count() == 3 and page.locator("#legend .ramp").count() == 3


@pytest.mark.parametrize(
    "low, high, verdict",
    [
        (-0.2, -0.1, "closer to the raters"),
        (0.1, 0.2, "farther from the raters"),
        (-0.1, 0.1, "no significant difference"),
        (None, None, "a single case"),
    ],
)
def test_the_verdict_follows_the_interval(low, high, verdict):
    values = {"mean": 0.0, "se": None, "low": low, "high": high, "cases": 2}
    figures = {"ged_4": values, "ged_of_majority": values, "ged_less_majority_4": values}
    (headline,) = report.headlines({"figures": figures, "compared": []})
    assert verdict in headline.verdict and headline.num_samples == 4 and not headline.folder


def test_page_names_how_the_samples_were_drawn(browser, data, tmp_path):
    made = {"sampler": "ddim", "steps": 20, "checkpoint": "0123abcd", "weights": "ema", "threshold": 0.4}
    for k, name in enumerate(names(data)):
        masks = np.zeros((4, SIZE, SIZE), dtype=np.float32)
        np.savez(tmp_path / f"{name}_samples.npz", samples=masks, **made, seed=k, median_blur=1 + 2 * (k == 0))
    assert evaluate(data, tmp_path).returncode == 0
    settings = json.loads((tmp_path / "metrics.json").read_text())["settings"]
    assert settings == {
        "samples per case": "4",
        "pixels": f"{SIZE}x{SIZE}",
        "checkpoint": "0123abcd",
        "weights": "ema",
        "sampler": "ddim",
        "steps": "20",
        "seed": f"{CASES} different values",
        "threshold": "0.4",
        "output size": "own",
        "median blur": "3, default",
    }
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    rows = dict(row.split("\t") for row in page.locator(".settings tr").all_inner_texts())
    assert rows.items() >= settings.items()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d", rows["evaluated"])
    page.close()


def test_samples_of_other_programs_store_no_settings(data, samples):
    assert evaluate(data, samples, "--report=False", "--threshold=0.3").returncode == 0
    settings = json.loads((samples / "metrics.json").read_text())["settings"]
    assert settings["sampler"] == settings["checkpoint"] == "not stored" and settings["threshold"] == "0.3"


def test_page_sorts_and_filters(page, data, samples):
    values = {row["case"]: float(row["ged_6"]) for row in rows_of(samples)}
    page.select_option("#figure", label="ged_6")
    assert shown(page) == sorted(values, key=values.get)
    page.check("#descending")
    assert shown(page) == sorted(values, key=values.get, reverse=True)
    first = page.locator("article").first
    assert first.locator("p").inner_text() == f"ged_6 {max(values.values()):.4f}"
    first.locator("summary").click()
    first.get_by_text(f"ged_6 {max(values.values()):.4f}").nth(1).wait_for()  # the list is made after the click
    page.fill("#filter", names(data)[2])
    assert shown(page) == [names(data)[2]]


def test_pictures_on_the_page_are_the_cases_sheets(page, data, samples):
    name = names(data)[3]
    picture = page.locator(f'article[data-case="{name}"] img')
    encoded = picture.evaluate(
        """async image => {
            image.loading = "eager";
            await image.decode();
            const [width, height] = [image.naturalWidth, image.naturalHeight];
            const canvas = Object.assign(document.createElement("canvas"), {width, height});
            const context = canvas.getContext("2d");
            context.drawImage(image, 0, 0);
            return [width, height, Array.from(context.getImageData(0, 0, width, height).data)];
        }"""
    )
    width, height, pixels = encoded
    image = read_image(str(data / name / f"image_{name}.png"))
    expected = pictures.sheet(image, raters_of(data, name), masks_of(samples, name))
    assert (width, height) == expected.size
    np.testing.assert_array_equal(
        np.array(pixels, dtype=np.uint8).reshape(height, width, 4)[..., :3], np.asarray(expected)
    )


def test_the_same_fault_of_many_cases_is_one_line_with_their_number():
    cases = [(f"case{k}", "no samples") for k in range(20)] + [("case3", "no raters"), ("case9", "no raters")]
    many, few = group_faults(cases)
    assert many == "20 cases (case0, case1, case2, case3, case4, ...): no samples"
    assert few == "case3, case9: no raters"


def test_page_is_safe_with_any_name(browser, data, tmp_path):
    """Names of cases and folders are text on the page, whatever they hold."""
    name = '<img src=x onerror=alert(1)>"&'
    odd, folder = tmp_path / "data", tmp_path / "a<b>&c"
    shutil.copytree(data / names(data)[0], odd / name)
    write_masks(folder, name, raters_of(data, names(data)[0]))
    assert evaluate(odd, folder).returncode == 0
    page = browser.new_page()
    page.goto((folder / "report.html").as_uri())
    heading = f"{folder}: 1 of 1 cases, scored at {SIZE}x{SIZE} pixels, the cases' own size"
    assert shown(page) == [name] and page.locator("p").first.inner_text() == heading
    page.close()


def test_a_sheet_shows_no_more_samples_than_asked():
    many = np.arange(64).reshape(8, 8) < np.arange(40)[:, None, None]
    few = pictures.sheet(np.zeros((8, 8)), many[:2], many, num_shown=8)
    assert few.size[1] < pictures.sheet(np.zeros((8, 8)), many[:2], many).size[1]
    few.save(io.BytesIO(), format="PNG")
