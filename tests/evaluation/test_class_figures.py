"""Cases of several classes: names of figures, ignored pixels, the truth of pairs, and the files written."""

import csv
import json
from dataclasses import replace

import brute_force
import numpy as np
import pytest
from PIL import Image

from guided_diffusion.data.config import DataConfig
from guided_diffusion.errors import DataError
from guided_diffusion.evaluation import class_figures, drawn, report, summary
from guided_diffusion.evaluation.case_figures import MORE_FIGURES, EvaluateConfig
from guided_diffusion.evaluation.class_figures import OF_EACH_CLASS, CaseMasks
from guided_diffusion.evaluation.given_masks import figures_of_case
from guided_diffusion.flags.classes import Classes, parse_classes
from guided_diffusion.masks import metrics
from guided_diffusion.masks.pairs import Pairs

DISC_CUP, SIZE, CASES = parse_classes(("disc", "cup")), 16, 3
NAMES = [f"case{k}" for k in range(CASES)]


def masks(rng, count, classes=DISC_CUP):
    """Discs with cups, the cup now and then absent: [count, 2, SIZE, SIZE]."""
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE / 2
    radius = np.hypot(y, x)
    outer, inner = rng.uniform(4, 8, (2, count, 1, 1)) * [[[[1]]], [[[0.5]]]]
    cup = (radius < inner) & (rng.random((count, 1, 1)) > 0.2)
    disc = radius < outer
    return np.stack([disc & ~cup if classes.exclusive else disc, cup], axis=1)


class Set:
    """A set of cases in memory, instead of the files that `CaseFiles` reads."""

    def __init__(self, folder, monkeypatch, ignored=None, config=("disc", "cup")):
        self.data, self.ignored, rng = DataConfig(classes=config), ignored, np.random.default_rng(0)
        self.raters = {name: masks(rng, 3, self.data.class_set) for name in NAMES}
        self.samples = {(f, name): masks(rng, 6, self.data.class_set) for f in ("s", "t") for name in NAMES}
        for name in NAMES:
            (folder / "data" / name).mkdir(parents=True)
            for file in ("image", "label0_"):
                Image.fromarray(np.zeros((SIZE, SIZE), np.uint8)).save(folder / "data" / name / f"{file}.png")
        for name in ("s", "t"):
            (folder / name).mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setattr(drawn.CaseFiles, "samples_in", lambda files, *place: self.drawn(*place))
        monkeypatch.setattr(drawn.CaseFiles, "read", lambda files, *case: self.read(*case))

    def drawn(self, folder, name):
        return drawn.Drawn(folder, self.samples[folder, name].astype(np.float32), {"seed": 0})

    def read(self, case, found, like):
        drawn._check_classes(found, self.data)
        image = np.zeros((SIZE, SIZE), np.float32)
        return drawn.Scored(image, self.raters[case[0]], None, found, self.data, "own", self.ignored)

    def evaluate(self, **flags):
        """(rows of metrics.csv, metrics.json)."""
        config = EvaluateConfig(data_dir="data", samples="s", out_dir="out", **flags)
        summary.evaluate(config, {})
        with open("out/metrics.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        with open("out/metrics.json") as file:
            return rows, json.load(file)


def test_names_over_classes_and_of_each_class(tmp_path, monkeypatch, capsys):
    cases = Set(tmp_path, monkeypatch)
    rows, found = cases.evaluate(counts=(2, 6))
    for row in rows:
        raters, samples = cases.raters[row["case"]], cases.samples["s", row["case"]]
        for count in (2, 6):
            S = samples[:count]
            assert float(row[f"ged_{count}"]) == pytest.approx(brute_force.ged(S, raters))
            assert float(row[f"max_dice_{count}"]) == pytest.approx(brute_force.max_dice(S, raters))
            assert float(row[f"dice_{count}"]) == pytest.approx(brute_force.majority_dice_exclusive(S, raters))
            for k, name in enumerate(("disc", "cup")):
                own = metrics.all_figures(S[:, k], raters[:, k])
                for metric in ("ged", "ged_unbiased", "diversity", "hm_iou", "max_dice"):
                    assert float(row[f"{metric}_{count}_{name}"]) == pytest.approx(float(own[metric])), metric
        majority = metrics.majority_vote(raters, DISC_CUP)
        assert float(row["ged_of_majority"]) == pytest.approx(brute_force.ged(majority[None], raters))
        assert float(row["ged_of_majority_cup"]) == pytest.approx(brute_force.ged(majority[None, 1], raters[:, 1]))
        assert float(row["rater_diversity_disc"]) == pytest.approx(brute_force.diversity(raters[:, 0]))
        assert float(row["ged_less_majority_6"]) == pytest.approx(float(row["ged_6"]) - float(row["ged_of_majority"]))
    names = list(found["figures"])
    assert names == [name for name in rows[0] if name not in ("case", "samples")]
    assert [name for name in names if name.endswith("_cup")] == [
        *(f"{metric}_{count}_cup" for metric in metrics.FIGURES if metric in OF_EACH_CLASS for count in (2, 6)),
        "ged_of_majority_cup",
        "rater_diversity_cup",
    ]
    assert names.index("rater_diversity") < names.index("ged_2_disc") < names.index("ged_2_cup")
    assert found["settings"]["classes"] == "disc, cup"
    for name, interval in found["figures"].items():
        assert interval["mean"] == pytest.approx(np.mean([float(row[name]) for row in rows]))
        assert interval["low"] <= interval["mean"] <= interval["high"]
    assert "ged_unbiased_6_disc" in capsys.readouterr().out


def test_the_report_heads_with_the_figure_over_classes_and_lists_all(tmp_path, monkeypatch):
    rows, found = Set(tmp_path, monkeypatch).evaluate(counts=(2, 6), absent_classes="skip")
    (headline,) = report.headlines(found)
    assert headline.num_samples == 6 and headline.ged == f"{found['figures']['ged_6']['mean']:.3f}"
    page = (tmp_path / "out" / "report.html").read_text()
    for name in found["figures"]:
        assert f'<th scope="row">{name}</th>' in page
    assert "cup: GED, squared" in page and page.count("<article") == CASES


def test_folders_are_compared_by_the_same_names(tmp_path, monkeypatch):
    rows, found = Set(tmp_path, monkeypatch).evaluate(compare=("t",))
    (other,) = found["compared"]
    assert other["differences"].keys() == found["figures"].keys() == other["figures"].keys()
    assert other["differences"]["rater_diversity_cup"]["mean"] == 0
    values = {(row["case"], row["samples"]): float(row["hm_iou_6_cup"]) for row in rows}
    expected = np.mean([values[name, "t"] - values[name, "s"] for name in NAMES])
    assert other["differences"]["hm_iou_6_cup"]["mean"] == pytest.approx(expected)


def test_absent_classes_add_two_figures_and_change_none(tmp_path, monkeypatch):
    cases = Set(tmp_path, monkeypatch)
    counted, _ = cases.evaluate(report=False)
    skipped, _ = cases.evaluate(report=False, absent_classes="skip")
    for before, after in zip(counted, skipped, strict=True):
        assert after.keys() - before.keys() == {"ged_present_6", "hm_iou_present_6"}
        assert before == {name: after[name] for name in before}
        S, Y = cases.samples["s", after["case"]], cases.raters[after["case"]]
        assert float(after["ged_present_6"]) == pytest.approx(brute_force.ged_present(S, Y))
    assert any(row["ged_present_6"] != row["ged_6"] for row in skipped)


@pytest.mark.parametrize("config", [("disc", "cup"), ("disc=1+2", "cup=2")], ids=["exclusive", "regions"])
def test_ignored_pixels_count_in_no_figure(tmp_path, monkeypatch, config):
    ignored = np.zeros((SIZE, SIZE), dtype=bool)
    ignored[:, : SIZE // 2] = True
    cases = Set(tmp_path, monkeypatch, ignored, config)
    rows, _ = cases.evaluate()
    for row in rows:
        S, Y = (x[..., SIZE // 2 :] for x in (cases.samples["s", row["case"]], cases.raters[row["case"]]))
        case = CaseMasks(S, Y, cases.data.class_set)
        for name, value in class_figures.figures_of_samples(case).items():
            assert float(row[f"{name}_6"]) == pytest.approx(float(value), abs=1e-12), name
        assert float(row["ged_6_cup"]) == pytest.approx(brute_force.ged(S[:, 1], Y[:, 1]))
    cases.ignored = np.ones((SIZE, SIZE), dtype=bool)
    with pytest.raises(DataError, match="every pixel has the level of --ignore_label"):
        cases.evaluate()


def test_ignored_pixels_of_a_single_class(tmp_path, monkeypatch):
    ignored = np.random.default_rng(0).random((SIZE, SIZE)) > 0.5
    cases = Set(tmp_path, monkeypatch, ignored, ())
    cases.raters = {name: raters[:, 0] for name, raters in cases.raters.items()}
    cases.samples = {place: samples[:, 0] for place, samples in cases.samples.items()}
    rows, found = cases.evaluate()
    for row in rows:
        S, Y = (x & ~ignored for x in (cases.samples["s", row["case"]], cases.raters[row["case"]]))
        for name in ("ged", "hm_iou", "max_dice"):  # do not see pixels that are empty in all masks
            assert float(row[f"{name}_6"]) == pytest.approx(float(metrics.all_figures(S, Y)[name])), name
        valid = S.mean(0)[~ignored] - Y.mean(0)[~ignored]
        assert float(row["brier_6"]) == pytest.approx((valid**2).mean())
    assert "classes" not in found["settings"] and not [name for name in rows[0] if name.endswith(("_disc", "_cup"))]


def test_raters_of_different_ignored_pixels_are_not_compared():
    found = drawn.Drawn("a", np.zeros((1, 2, 2)), {})
    first = drawn.Scored(np.zeros((2, 2)), np.zeros((1, 2, 2), bool), None, found, DataConfig(), "own")
    drawn.check_same_raters("case", first, first._replace(ignored=np.zeros((2, 2), dtype=bool)))
    other = first._replace(ignored=np.eye(2, dtype=bool), data=DataConfig(ignore_label=255))
    with pytest.raises(Exception, match="--ignore_label None and 255; give one value here"):
        drawn.check_same_raters("case", first, other)


def test_samples_of_other_classes_are_a_fault(tmp_path, monkeypatch):
    cases = Set(tmp_path, monkeypatch)
    cases.samples["s", "case1"] = cases.samples["s", "case1"][:, 0]
    cases.samples["s", "case2"] = cases.samples["s", "case2"][:, [0, 1, 1]]
    _, found = cases.evaluate()
    assert found["faults"] == [
        f"{case}: the samples in s have the shape {shape}, so {has}, but the cases have "
        "the classes disc, cup; check --classes"
        for case, shape, has in (("case1", [6, 16, 16], "one class"), ("case2", [6, 3, 16, 16], "3 classes"))
    ]


def test_the_truth_of_pairs(tmp_path, monkeypatch):
    """The samples are modes, so the figures of a perfect sampler and those of the pairs are known."""
    cases = Set(tmp_path, monkeypatch)
    labels = {"small+small": (5, 2), "small+large": (5, 4), "large+small": (8, 2), "large+large": (8, 4)}
    probabilities = {"small+small": 0.5, "small+large": 0.0, "large+small": 0.0, "large+large": 0.5}
    radius, modes, of_name = np.hypot(*(np.mgrid[:SIZE, :SIZE] - SIZE / 2)), {}, {}
    for name, (disc, cup) in labels.items():
        label = np.where(radius < cup, 2, (radius < disc).astype(int)).astype(np.uint8)
        Image.fromarray(label).save(tmp_path / f"{name}.png")
        modes[name] = {"probability": probabilities[name], "mask": f"{name}.png"}
        of_name[name] = np.stack([label == 1, label == 2])
    (tmp_path / "truth.json").write_text(json.dumps({"cases": {name: {"modes": modes} for name in NAMES}}))
    for k, name in enumerate(NAMES):
        cases.raters[name] = np.stack([of_name["small+small"], of_name["large+large"]])
        order = ["small+small", "large+large"] * 3 if k else list(of_name)[:3] * 2
        cases.samples["s", name] = np.stack([of_name[mode] for mode in order])
    rows, found = cases.evaluate(truth="truth.json")
    for row, tv, information in zip(rows, (2 / 3, 0, 0), (np.log2(3) - 4 / 3, 1, 1), strict=True):
        assert float(row["joint_tv_6"]) == pytest.approx(tv) and float(row["mode_tv_6"]) == pytest.approx(tv)
        assert float(row["joint_information_6"]) == pytest.approx(information)
        assert float(row["joint_information_of_truth_6"]) == pytest.approx(1)
        perfect = float(row["joint_information_of_perfect_6"])
        assert 0.8 < perfect < 1 and float(row["joint_excess_6"]) == pytest.approx(information - perfect)
        assert float(row["implausible_6"]) == 0 and float(row["ged_excess_6"]) < 2
    assert found["figures"]["joint_excess_6"]["cases"] == CASES
    assert sum(point["count"] for point in found["mode_calibration"]["6"]) == 4 * CASES


def test_masks_in_memory():
    rng = np.random.default_rng(3)
    S, Y = masks(rng, 4), masks(rng, 3)
    found = figures_of_case(S, Y.astype(np.uint8), DISC_CUP)
    assert found["ged"] == pytest.approx(brute_force.ged(S, Y))
    assert found["ged[cup]"] == pytest.approx(brute_force.ged(S[:, 1], Y[:, 1]))
    unnamed = figures_of_case(list(S), Y)
    assert {name.replace("class1", "disc").replace("class2", "cup") for name in unnamed} == set(found)
    assert unnamed["dice"] == found["dice"] == pytest.approx(brute_force.majority_dice_exclusive(S, Y))
    overlapping = figures_of_case(np.concatenate([S, S[:, [0, 0]]]), Y)
    expected = metrics.mean_mask_dice(np.concatenate([S, S[:, [0, 0]]]), Y, parse_classes(("a=1+2", "b=2")))
    assert overlapping["dice"] == pytest.approx(float(expected))
    assert figures_of_case(S[:, :1], Y[:, 0]) == figures_of_case(S[:, 0], Y[:, 0])
    assert "ged_unbiased_cup" not in figures_of_case(S[:1], Y, DISC_CUP)
    for samples, raters, classes in ((S, Y[:, 0], None), (S, Y[:, [0, 1, 1]], None), (S[:, 0], Y[:, 0], DISC_CUP)):
        with pytest.raises(DataError, match="classes cannot be compared"):
            figures_of_case(samples, raters, classes)
    with pytest.raises(DataError, match="shape"):
        figures_of_case(S[None], Y)


def test_figures_have_descriptions():
    assert set(OF_EACH_CLASS) <= metrics.FIGURES.keys() and set(metrics.OF_RATERS) <= MORE_FIGURES.keys()
    case = CaseMasks(*(masks(np.random.default_rng(k), 3) for k in range(2)), DISC_CUP)
    assert class_figures.present_figures(case, Pairs.of(*case)).keys() <= MORE_FIGURES.keys()
    assert class_figures.figures_by_class(replace(case, classes=Classes()), Pairs.of(*case)) == {}


def test_names_of_classes_may_be_anything(tmp_path, monkeypatch):
    config = ("16", "optic cup_2")
    rows, found = Set(tmp_path, monkeypatch, config=config).evaluate(counts=(2, 6))
    assert {"ged_6_16", "ged_of_majority_16", "hm_iou_2_optic cup_2"} <= found["figures"].keys()
    (headline,) = report.headlines(found)
    assert headline.num_samples == 6
