"""Layouts of folders of pictures as users have them: cases, raters, structures and splits, by the paths alone."""

import json

import numpy as np
import pytest
from conversions import DISC, GREY, convert, read
from helpers import assert_refused
from PIL import Image

from guided_diffusion.prepare.layouts.listing import list_source
from guided_diffusion.prepare.layouts.words import folder_of, meaning_of, words_of

MASKS = [np.roll(DISC, k, axis=1) for k in range(8)]


def put(root, path, array=GREY):
    path = root / path
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(array.astype(np.uint8) * 255 if array.dtype == bool else array)
    picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def source(tmp_path, images, masks):
    """Write images, and masks {path: number of its disc}; returns the folder."""
    for path in images:
        put(tmp_path / "x", path)
    for path, k in masks.items():
        put(tmp_path / "x", path, MASKS[k])
    return tmp_path / "x"


def discs_of(out):
    """{case: numbers of the discs of its masks}, and the rows of the manifest."""
    cases, rows = read(out)
    found = {}
    for name, case in cases.items():
        np.testing.assert_allclose(case.image[0].numpy(), GREY / 255, atol=0.1)
        numbers = [[k for k, disc in enumerate(MASKS) if (mask == disc).all()] for mask in case.raters.numpy() > 0]
        found[name] = [number for (number,) in numbers]
    return found, rows


def masks_of(*names, ids=("a", "b", "c")):
    """{path: disc} of masks whose names contain ID; the k-th name has disc k."""
    return {name.replace("ID", i): k for i in ids for k, name in enumerate(names)}


def images_of(name, ids=("a", "b", "c")):
    return [name.replace("ID", i) for i in ids]


IDS = ("p7", "p8", "p10")
# layout -> (images, masks in the order of raters)
LAYOUTS = {
    "masks by rater": ("images/ID.png", ["masks/reader0/ID.png", "masks/reader1/ID.png"]),
    "masks by rater, other words": ("img/ID.jpg", ["annotations/expert_A/ID.png", "annotations/expert_B/ID.png"]),
    "ten raters": ("images/ID.png", ["masks/r1/ID.png", "masks/r2/ID.png", "masks/r10/ID.png"]),
    "one rater": ("images/ID.jpg", ["masks/ID.png"]),
    "one rater, a suffix": ("images/ID.jpg", ["masks/ID_segmentation.png"]),
    "one rater, a prefix": ("images/img_ID.png", ["labels/mask_ID.png"]),
    "one rater of one structure": ("images/ID.jpg", ["gt/ID_lesion.png"]),
    "raters in names": ("Images/ID.png", ["Masks/ID_1.png", "Masks/ID_2.png"]),
    "raters in names, words": ("images/ID.png", ["masks/ID-reader1.gif", "masks/ID-reader2.gif"]),
    "raters before names": ("images/ID.png", ["masks/expert1_ID.png", "masks/expert2_ID.png"]),
    "folders beside images": ("images/ID.png", ["reader1/ID.png", "reader2/ID.png"]),
    "folders of masks by rater": ("images/ID.png", ["masks_reader1/ID.png", "masks_reader2/ID.png"]),
    "rater and word": ("scans/ID.png", ["expert1/ID_mask.png", "expert2/ID_mask.png"]),
    "beside": ("ID.png", ["ID_expert1.png", "ID_expert2.png"]),
    "beside, masks": ("ID.png", ["ID_mask1.png", "ID_mask2.png"]),
    "beside, numbers": ("ID.png", ["ID_1.png", "ID_2.png", "ID_10.png"]),
    "beside, letters": ("ID.jpg", ["ID-A.png", "ID-B.png"]),
    "beside in a folder": ("data/ID.png", ["data/ID_gt1.png", "data/ID_gt2.png"]),
    "CHASE": ("Image_ID.jpg", ["Image_ID_1stHO.png", "Image_ID_2ndHO.png"]),
    "DRIVE": ("images/ID_test.tif", ["1st_manual/ID_manual1.gif", "2nd_manual/ID_manual2.gif"]),
    "nnU-Net": ("imagesTr/ID_0000.png", ["labelsTr/ID.png"]),
    "nnU-Net, raters": ("imagesTr/ID_0000.png", ["labelsTr_r1/ID.png", "labelsTr_r2/ID.png"]),
    "nnU-Net, raters below": ("imagesTr/ID_0000.png", ["labelsTr/r1/ID.png", "labelsTr/r2/ID.png"]),
    "crops": ("images/s/z-1.5_ID.png", ["gt/s/z-1.5_ID_l0.png", "gt/s/z-1.5_ID_l1.png"]),
    "QUBIQ": ("ID/image.png", ["ID/task01_seg01.png", "ID/task01_seg02.png"]),
    "a folder per case": ("ID/scan.png", ["ID/mask0.png", "ID/mask1.png"]),
    "one structure beside": ("ID.png", ["ID_seg_disc_1.png", "ID_seg_disc_2.png"]),
    "a word in all masks": ("ID.png", ["ID_final_expert1.png", "ID_final_expert2.png"]),
    "masks in a folder per case": ("ID/scan.png", ["ID/masks/reader1.png", "ID/masks/reader2.png"]),
    "raters in folders per case": ("ID/scan.png", ["ID/reader1/mask.png", "ID/reader2/mask.png"]),
    "the layout of the loader": ("ID/image_0.png", ["ID/label0_.png", "ID/label1_.png"]),
    "raters before numbers": ("image_ID.png", ["mask1_ID.png", "mask2_ID.png"]),
    "any name for images": ("CT/ID.png", ["reader1/ID.png", "reader2/ID.png"]),
    "images above masks": ("ID.png", ["masks/ID_r1.png", "masks/ID_r2.png"]),
    "masks in folders of cases": ("s/ID/ID.png", ["s/ID/masks/ID_1.png", "s/ID/masks/ID_2.png"]),
    "nodules": ("ID/n-0/images/s-0.png", ["ID/n-0/mask-0/s-0.png", "ID/n-0/mask-1/s-0.png", "ID/n-0/mask-2/s-0.png"]),
    "ground truth": ("Original/ID.png", ["Ground Truth/ID.png"]),
    "HRF": ("images/ID_dr.jpg", ["manual1/ID_dr.tif"]),
    "a folder in a folder": ("set/images/ID.png", ["set/masks/expert1/ID.png", "set/masks/expert2/ID.png"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_taken_as_it_is(layout, tmp_path):
    image, masks = LAYOUTS[layout]
    done = convert("folders", source(tmp_path, images_of(image, IDS), masks_of(*masks, ids=IDS)), tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found, rows = discs_of(tmp_path / "out")
    assert len(found) == 3 and "fault" not in done.stdout, done.stdout
    for case, discs in found.items():
        assert any(name in case for name in IDS) and discs == list(range(len(masks)))
    assert "passed over" not in done.stdout


def test_layouts_with_patients(tmp_path):
    """Of folders below the images, the first is the patient; masks have it above or below the rater."""
    src = source(
        tmp_path,
        [f"images/{p}/s{k}.png" for p in ("p1", "p2", "p3") for k in range(2)],
        {f"masks/{folders}/s{k}.png": k for p in ("p1", "p2") for k in range(2) for folders in (f"{p}/r1", f"{p}/r2")}
        | {f"masks/r{r}/p3/s{k}.png": k for r in (1, 2) for k in range(2)},
    )
    done = convert("folders", src, tmp_path / "out")
    assert "6 cases of 3 patients" in done.stdout, done.stderr
    found, rows = discs_of(tmp_path / "out")
    assert found == {f"{p}-s{k}": [k, k] for p in ("p1", "p2", "p3") for k in range(2)}
    assert {row["patient"] for row in rows.values()} == {"p1", "p2", "p3"}


@pytest.mark.parametrize("inside", [False, True])
def test_splits_in_the_path_are_kept(inside, tmp_path):
    """training/images/ID or images/training/ID; the same ID in two splits is two cases."""
    parts = {"train": "training", "val": "validation", "Test": "testing"}
    where = {part: ("{}/" + part if inside else part + "/{}") for part in parts}
    src = source(
        tmp_path,
        [f"{where[part].format('images')}/{part}{k}.png" for part in parts for k in range(2)]
        + [f"{where[part].format('images')}/1.png" for part in parts],
        {f"{where[part].format('masks')}/{part}{k}_r{r}.png": r for part in parts for k in range(2) for r in (1, 2)}
        | {f"{where[part].format('masks')}/1_r1.png": 3 for part in parts},
    )
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found, rows = discs_of(tmp_path / "out")
    assert {name: row["split"] for name, row in rows.items()} == {
        name: split for part, split in parts.items() for name in (f"{part}0", f"{part}1", f"{split}-1")
    }
    assert found["testing-1"] == [3] and found["val1"] == [1, 2]


def test_drive_as_it_is_distributed(tmp_path):
    """Its folder mask is the field of view; test cases have two readers, training cases one."""
    src = source(
        tmp_path,
        ["training/images/21_training.tif", "training/images/22_training.tif", "test/images/01_test.tif"],
        {
            "training/1st_manual/21_manual1.gif": 0,
            "training/1st_manual/22_manual1.gif": 1,
            "training/mask/21_training_mask.gif": 5,
            "training/mask/22_training_mask.gif": 5,
            "test/1st_manual/01_manual1.gif": 2,
            "test/2nd_manual/01_manual2.gif": 3,
            "test/mask/01_test_mask.gif": 5,
        },
    )
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found, rows = discs_of(tmp_path / "out")
    assert found == {"21_training": [0], "22_training": [1], "01_test": [2, 3]}
    assert {name: row["split"] for name, row in rows.items()} == {
        "21_training": "training",
        "22_training": "training",
        "01_test": "testing",
    }
    assert "passed over 3 files: 3 .gif (e.g. test/mask/01_test_mask.gif)" in done.stdout


def test_images_of_a_folder_are_modalities_if_their_names_say_so(tmp_path):
    src = tmp_path / "x"
    for i in ("a", "b"):
        put(src, f"{i}/{i}_flair.png")
        put(src, f"{i}/{i}_t1ce.png", GREY // 2)
        put(src, f"{i}/{i}_seg.png", DISC)
    assert convert("folders", src, tmp_path / "out").returncode == 0
    for case in read(tmp_path / "out")[0].values():
        np.testing.assert_allclose(case.image.numpy(), np.stack([GREY, GREY // 2]) / 255, atol=1e-6)
    assert json.loads((tmp_path / "out" / "dataset.json").read_text())["channel_names"] == {"0": "flair", "1": "t1ce"}
    (src / "a" / "a_flair.png").rename(src / "a" / "a_FLAIR.png")
    for i in ("c", "d", "e"):
        put(src, f"{i}/{i}_flair.png")
        put(src, f"{i}/{i}_seg.png", DISC)
        if i != "c":
            put(src, f"{i}/{i}_t1ce.png")
    done = convert("folders", src, tmp_path / "other")
    assert done.returncode == 1 and "c/c_flair.png: the modalities of this case are flair, but those" in done.stdout
    assert "a/a_FLAIR.png: the modalities of this case are FLAIR, t1ce, but those of most cases are fl" in done.stdout
    put(src, "b/overview.png")
    done = convert("folders", src, tmp_path / "2")
    assert done.returncode == 1 and "b: 3 pictures that are not named as masks" in done.stdout


def test_raters_may_differ_between_cases(tmp_path):
    src = source(tmp_path, images_of("images/ID.png"), {"masks/r1/a.png": 1, "masks/r2/a.png": 2, "masks/r3/b.png": 3})
    done = convert("folders", src, tmp_path / "out")
    assert discs_of(tmp_path / "out")[0] == {"a": [1, 2], "b": [3]}
    assert "note: 1 image without masks is passed over, e.g. images/c.png" in done.stdout
    assert "raters" not in json.loads((tmp_path / "out" / "dataset.json").read_text())


def test_the_longest_name_of_an_image_in_that_of_a_mask_counts(tmp_path):
    src = source(
        tmp_path,
        ["images/1.png", "images/1_2.png", "images/12.png", "images/g1_cropped.png", "images/g1.png"],
        {
            "masks/1_1.png": 0,
            "masks/1_2_1.png": 1,
            "masks/12_1.png": 2,
            "masks/g1_seg_1_cropped.png": 3,
            "masks/g1_seg_1.png": 4,
            "masks/11_1.png": 5,
        },
    )
    done = convert("folders", src, tmp_path / "out")
    assert discs_of(tmp_path / "out")[0] == {"1": [0], "1_2": [1], "12": [2], "g1_cropped": [3], "g1": [4]}, done.stderr
    assert "passed over 1 file: 1 .png (e.g. masks/11_1.png)" in done.stdout


def test_heights_above_and_below_zero_are_different_images(tmp_path):
    names = ("z-105.0_c0", "z--105.0_c0")
    src = source(tmp_path, [f"images/p/{n}.png" for n in names], {f"gt/p/{n}_l0.png": k for k, n in enumerate(names)})
    convert("folders", src, tmp_path / "out")
    assert sorted(discs_of(tmp_path / "out")[0].values()) == [[0], [1]]


# -- structures -------------------------------------------------------------------------------------------------------

STRUCTURES = {
    "REFUGE": ("ID.jpg", "ID_seg_{}_{}.png"),
    "REFUGE, folders": ("Training-400/ID/ID.jpg", "Training-400/ID/ID_seg_{}_{}.png"),
    "REFUGE, cropped": ("ID_cropped.jpg", "ID_seg_{}_{}_cropped.png"),
    "no word for masks": ("ID.jpg", "ID_{}_{}.png"),
    "structures in folders": ("images/ID.png", "masks/{}/ID_{}.png"),
    "raters in folders": ("images/ID.png", "masks/expert{1}/ID_{0}.png"),
    "both in folders": ("images/ID.png", "masks/expert{1}/{0}/ID.png"),
    "folders beside images": ("images/ID.png", "{}/ID_{}.png"),
    "folders per case": ("ID/scan.png", "ID/{}{}.png"),
    "nnU-Net": ("imagesTr/ID_0000.png", "labelsTr_{}/ID_{}.png"),
    "QUBIQ": ("ID/image.png", "ID/{}_seg0{}.png"),
}


WORDS = [("cup", "disc"), ("optic_cup", "optic_disc"), ("task01", "task02")]
UNCLEAR = ("folders per case", WORDS[2])  # task011.png: the number of the rater would be part of the structure


@pytest.mark.parametrize(
    "layout, words", [(one, words) for one in STRUCTURES for words in WORDS if (one, words) != UNCLEAR]
)
def test_structures_are_refused_or_chosen_and_never_raters(layout, words, tmp_path):
    image, mask = STRUCTURES[layout]
    names = [mask.format(word, rater) for word in words for rater in (1, 2, 3)]
    src = source(tmp_path, images_of(image, IDS), masks_of(*names, ids=IDS))
    refused = convert("folders", src, tmp_path / "no")
    assert_refused(refused, "several structures", f"{words[0]} (9 masks), {words[1]} (9 masks)", "--structure")
    assert not (tmp_path / "no").exists()
    for k, word in enumerate(words):
        done = convert("folders", src, tmp_path / word, f"--structure={word}")
        assert done.returncode == 0, done.stderr
        assert list(discs_of(tmp_path / word)[0].values()) == [[3 * k, 3 * k + 1, 3 * k + 2]] * 3
        stored = json.loads((tmp_path / word / "dataset.json").read_text())
        assert stored["labels"] == {"background": 0, word: 1} and len(stored["raters"]) == 3
    assert_refused(
        convert("folders", src, tmp_path / "no", "--structure=liver"), "--structure liver", words[0], words[1]
    )


@pytest.mark.parametrize("image, mask", [("images/ID.png", "masks/{}/ID.png"), ("ID.png", "ID_{}.png")])
def test_names_that_may_be_either_are_refused_with_two_commands(image, mask, tmp_path):
    src = source(tmp_path, images_of(image), masks_of(mask.format("smith"), mask.format("jones")))
    done = convert("folders", src, tmp_path / "out")
    assert_refused(done, "jones, smith may name raters or structures", "--structure jones")
    _, raters, structures = done.stderr.split("--images ")
    for number, text in ((2, raters), (1, structures)):
        words = text.split("'")
        flags = [f"--images={words[1]}", f"--masks={words[3]}"] + (["--structure=jones"] if number == 1 else [])
        done = convert("folders", src, tmp_path / str(number), *flags)
        assert done.returncode == 0, (flags, done.stderr)
        assert {tuple(discs) for discs in discs_of(tmp_path / str(number))[0].values()} == {(1, 0)[:number]}


def test_known_structures_with_unknown_raters(tmp_path):
    src = source(
        tmp_path,
        images_of("ID.png"),
        masks_of("ID_seg_disc_smith.png", "ID_seg_disc_jones.png", "ID_seg_cup_smith.png", "ID_seg_cup_jones.png"),
    )
    assert convert("folders", src, tmp_path / "out", "--structure=cup").returncode == 0
    assert list(discs_of(tmp_path / "out")[0].values()) == [[3, 2]] * 3


def test_known_raters_with_unknown_structures(tmp_path):
    names = [f"masks/expert{k}/ID_{word}.png" for word in ("fascia", "tendon") for k in (1, 2)]
    src = source(tmp_path, images_of("images/ID.png"), masks_of(*names))
    assert_refused(convert("folders", src, tmp_path / "out"), "fascia (6 masks), tendon (6 masks)")
    assert convert("folders", src, tmp_path / "out", "--structure=tendon").returncode == 0
    assert list(discs_of(tmp_path / "out")[0].values()) == [[2, 3]] * 3


def test_a_consensus_is_not_a_rater(tmp_path):
    src = source(tmp_path, images_of("images/ID.png"), masks_of("r1/ID.png", "r2/ID.png", "consensus/ID.png"))
    done = convert("folders", src, tmp_path / "out")
    assert "3 masks of no single rater" in done.stdout and "consensus/a.png" in done.stdout
    assert list(discs_of(tmp_path / "out")[0].values()) == [[0, 1]] * 3


# -- what is refused or passed over -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images, masks, words",
    [
        (["images/a.png"], ["masks/a.png", "masks/r1/a.png"], ["masks/ID.*", "masks/RATER/ID.*"]),
        (["images/a.png"], ["masks/r1/a.png", "r2/a.png"], ["masks/RATER/ID.*", " RATER/ID.*"]),
        (["images/a.png"], ["masks/a.png", "masks/a_1.png"], ["masks/ID.*", "masks/ID_RATER.*"]),
        (["images/a.png", "b.png"], ["masks/a.png", "b_mask.png"], ["images/ID.*", "beside it"]),
        (["a.png", "b.png"], ["a_mask.png", "a_mask_1.png"], ["ID.*", "ID_RATER.*"]),
    ],
)
def test_two_layouts_that_fit_are_refused_with_both(images, masks, words, tmp_path):
    src = source(tmp_path, images, dict.fromkeys(masks, 1))
    assert_refused(convert("folders", src, tmp_path / "out"), "two layouts fit", masks[0], masks[1], *words)


def test_what_is_passed_over_is_counted_by_ending(tmp_path):
    src = source(tmp_path, images_of("images/ID.png"), masks_of("masks/ID.png", ids=("a", "b")))
    for name in ("readme.txt", "meta/a.xml", "meta/b.xml", "LICENSE", ".hidden"):
        (src / name).parent.mkdir(exist_ok=True)
        (src / name).write_text("")
    put(src, "masks/zz.tif", MASKS[0])
    done = convert("folders", src, tmp_path / "out")
    assert "note: 1 image without masks is passed over, e.g. images/c.png" in done.stdout
    assert (
        "note: passed over 5 files: 2 .xml (e.g. meta/a.xml), 1 .tif (e.g. masks/zz.tif), 1 .txt (e.g. readme.txt), "
        "1 without an ending (e.g. LICENSE)" in done.stdout
    )


def test_a_source_with_nothing_usable_shows_the_layouts(tmp_path):
    src = source(tmp_path, ["photo1/one.png", "photo2/two.png"], {})
    (src / "x.mat").write_text("")
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    for line in ("no case found in the format folders", "found 3 files: 2 .png (e.g. photo1/one.png), 1 .mat"):
        assert line in done.stderr
    for line in ("images/ID.png  masks/expert1/ID.png", "imagesTr/ID_0000.nii.gz", "--images 'scans/{case}.*'"):
        assert line in done.stderr
    src = source(tmp_path / "2", ["images/a.png"], {"masks/b.png": 0})
    done = convert("folders", src, tmp_path / "out")
    assert "no mask has the name of an image; e.g. images/a.png and masks/b.png" in done.stderr


def test_two_files_of_one_name_are_a_fault_of_their_case(tmp_path):
    src = source(tmp_path, images_of("images/ID.png"), masks_of("masks/r1/ID.png") | {"masks/r1/a.gif": 2})
    put(src, "images/b.tif")
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 1 and "masks/r1/a.png: a.gif is by the same rater" in done.stdout
    assert "images/b.tif: has the same name as images/b.png" in done.stdout
    assert sorted(discs_of(tmp_path / "out")[0]) == ["b", "c"]


def test_a_folder_that_cannot_be_listed_is_a_fault(tmp_path, monkeypatch):
    src = source(tmp_path, images_of("images/ID.png"), masks_of("masks/ID.png"))

    def walk(folder, on_error):
        on_error(PermissionError(13, "Permission denied", f"{src}/closed"))
        return iter([])

    monkeypatch.setattr("guided_diffusion.prepare.layouts.listing.walk", walk)
    (fault,) = list_source(str(src)).faults
    assert "closed: cannot be listed (Permission denied)" in str(fault)
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 2 and "closed: cannot be listed" in done.stderr


# -- nnU-Net ----------------------------------------------------------------------------------------------------------


def nnunet(tmp_path, channels=2, **content):
    src = tmp_path / "x"
    for i in IDS:
        for c in range(channels):
            put(src, f"imagesTr/{i}_{c:04d}.png", GREY // (c + 1))
        put(src, f"labelsTr/{i}.png", DISC.astype(np.uint8))
    if content:
        (src / "dataset.json").write_text(json.dumps(content))
    return src


def test_channels_of_nnunet_are_modalities(tmp_path):
    src = nnunet(tmp_path, channel_names={"0": "T1 w/o", "1": "FLAIR"}, labels={"background": 0, "tumour": 1})
    put(src, "imagesTs/q_0000.png")
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 0 and "1 image without masks is passed over, e.g. imagesTs/q_0000.png" in done.stdout
    cases, rows = read(tmp_path / "out")
    for case in cases.values():
        np.testing.assert_allclose(case.image.numpy(), np.stack([GREY, GREY // 2]) / 255, atol=1e-6)
    assert sorted(cases) == sorted(IDS) and len({row["split"] for row in rows.values()}) == 3
    stored = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert stored["channel_names"] == {"0": "T1 w/o", "1": "FLAIR"} and stored["labels"] == {
        "background": 0,
        "tumour": 1,
    }


def test_test_cases_of_nnunet_with_labels_are_a_split(tmp_path):
    src = nnunet(tmp_path)
    put(src, "imagesTs/q_0000.png")
    put(src, "imagesTs/q_0001.png")
    put(src, "labelsTs/q.png", DISC.astype(np.uint8))
    assert convert("folders", src, tmp_path / "out").returncode == 0
    assert {name: row["split"] for name, row in read(tmp_path / "out")[1].items()} == {
        **dict.fromkeys(IDS, "training"),
        "q": "testing",
    }


def test_a_missing_channel_is_a_fault(tmp_path):
    src = nnunet(tmp_path)
    (src / "imagesTr" / "p7_0001.png").unlink()
    done = convert("folders", src, tmp_path / "out")
    assert done.returncode == 1 and "of this case are 0000, but those of most cases are 0000, 0001" in done.stdout
    assert sorted(read(tmp_path / "out")[0]) == ["p10", "p8"]


@pytest.mark.parametrize(
    "labels", [{"background": 0, "liver": 1, "tumour": 2}, {"0": "background", "1": "liver", "2": "tumour"}]
)
def test_classes_of_nnunet_are_converted_or_chosen_by_name(labels, tmp_path):
    src = nnunet(tmp_path, labels=labels, licence="CC BY 4.0")
    classes = DISC.astype(np.uint8)
    classes[35:45, 5:20] = 2
    for i in IDS:
        put(src, f"labelsTr/{i}.png", classes)
    assert convert("folders", src, tmp_path / "all").returncode == 0
    assert {row["areas"] for row in read(tmp_path / "all")[1].values()} == {"517+150"}
    stored = json.loads((tmp_path / "all" / "dataset.json").read_text())
    assert stored["labels"] == {"background": 0, "liver": 1, "tumour": 2} and stored["licence"] == "CC BY 4.0"
    assert convert("folders", src, tmp_path / "out", "--structure=tumour").returncode == 0
    assert {row["areas"] for row in read(tmp_path / "out")[1].values()} == {"150"}
    stored = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert stored["labels"] == {"background": 0, "tumour": 1} and stored["licence"] == "CC BY 4.0"
    assert_refused(
        convert("folders", src, tmp_path / "2", "--structure=tumour", "--merge_labels"), "structure", "merge_labels"
    )
    assert_refused(convert("folders", src, tmp_path / "2", "--structure=spleen"), "--structure spleen")
    assert convert("folders", src, tmp_path / "3", "--structure=1").returncode == 0
    assert json.loads((tmp_path / "3" / "dataset.json").read_text())["labels"] == {"background": 0, "liver": 1}


def test_volumes_of_nnunet_are_cut_into_slices(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    src = tmp_path / "x"
    volume = np.stack([GREY.T + k for k in range(4)], axis=-1).astype(np.float32)
    for i in ("a", "b", "c"):
        for name, array in ((f"imagesTr/{i}_0000", volume), (f"labelsTr/{i}", np.stack([DISC.T] * 4, -1).astype("u1"))):
            (src / name).parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), f"{src / name}.nii.gz")
    done = convert("folders", src, tmp_path / "out")
    assert "12 cases of 3 patients" in done.stdout, done.stderr
    cases, rows = read(tmp_path / "out")
    assert {row["patient"] for row in rows.values()} == {"a", "b", "c"}
    for k in range(4):
        expected = (GREY.astype(float) + k - volume.min()) / np.ptp(volume)
        np.testing.assert_allclose(cases[f"a_z{k:03d}"].image[0].numpy(), expected, atol=1e-4)
        assert (cases[f"a_z{k:03d}"].raters.numpy()[0] > 0).tolist() == DISC.tolist()


def test_the_range_of_a_source_is_applied(tmp_path):
    src = nnunet(tmp_path, channels=1, intensity_range=[0, 400])
    assert convert("folders", src, tmp_path / "out").returncode == 0
    np.testing.assert_allclose(read(tmp_path / "out")[0]["p7"].image[0].numpy(), GREY / 400, atol=1e-4)
    assert "intensity_range" not in json.loads((tmp_path / "out" / "dataset.json").read_text())


# -- words ------------------------------------------------------------------------------------------------------------


def test_words_of_names():
    assert words_of("eye0_seg_disc_1") == ("eye0", "seg", "disc", "1")
    assert words_of("mask0") == ("mask", "0") and words_of("benign (3)_mask") == ("benign", "3", "mask")
    assert words_of("z--105.0_c0") == ("z", "-105", "0", "c0")
    assert meaning_of(["expert", "smith", "optic", "disc"])[:2] == (("expert", "smith"), ("optic", "disc"))
    assert meaning_of(["class", "2", "r1"])[:2] == (("r1",), ("class", "2"))
    assert meaning_of(["t1"]).unknown == ("t1",)


@pytest.mark.parametrize(
    "name, role, split, words",
    [
        ("reader_smith", "mask", None, ("reader", "smith")),
        ("0001", None, None, ()),
        ("p1", None, None, ()),
        ("images", "image", None, ()),
        ("Training-400", None, "training", ()),
        ("a. Training Set", None, "training", ()),
        ("1. Original Images", "image", None, ()),
        ("train_images", "image", "training", ()),
        ("labelsTr_expert1", "mask", "training", ("expert1",)),
        ("2nd_manual", "mask", None, ("2nd",)),
        ("test_patient", None, None, ()),
        ("img_001", None, None, ()),
        ("scan1", None, None, ()),
    ],
)
def test_meaning_of_folders(name, role, split, words):
    assert folder_of(name)[:3] == (role, split, words)


def test_a_single_patient_is_reported(tmp_path):
    images = [f"eye7/images/{name}.png" for name in "abc"]
    src = source(tmp_path, images, {image.replace("images", "masks"): 0 for image in images})
    done = convert("folders", src, tmp_path / "out")
    assert "warning: all 3 cases count as cases of one patient, eye7" in done.stdout
