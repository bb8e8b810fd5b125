"""dataset.json beside the cases: read as nnU-Net writes it, written as it was read, and refused where it is wrong."""

import dataclasses
import json
import re

import pytest

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.described import with_intensity_range
from guided_diffusion.data.files.dataset_json import DatasetFile, dataset_faults, read_dataset_file, write_dataset_file
from guided_diffusion.errors import DataError

WHOLE = DatasetFile(
    name="eyes",
    channel_names=("red", "green"),
    labels={"disc": (1,), "cup": (2,), "both": (1, 2)},
    raters=("A", "B"),
    intensity_range=(-1000.0, 400.0),
    licence="CC BY 4.0",
    source="doi:10.0/0",
)


def write(folder, **content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize("file", [WHOLE, DatasetFile(), DatasetFile(labels={"foreground": (1,)})])
def test_what_is_written_is_read(file, tmp_path):
    write_dataset_file(str(tmp_path), file)
    read = read_dataset_file(str(tmp_path))
    assert dataclasses.replace(read, path=file.path) == file


def test_keys_are_those_of_nnunet(tmp_path):
    write_dataset_file(str(tmp_path), WHOLE)
    stored = json.loads((tmp_path / "dataset.json").read_text())
    assert stored["channel_names"] == {"0": "red", "1": "green"}
    assert stored["labels"] == {"background": 0, "disc": 1, "cup": 2, "both": [1, 2]}
    write_dataset_file(str(tmp_path), DatasetFile(name="eyes"))
    assert json.loads((tmp_path / "dataset.json").read_text()) == {"name": "eyes"}


@pytest.mark.parametrize(
    "content",
    [
        {"channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "liver": 1}, "license": "CC0"},
        {"modality": {"0": "CT", "1": "PET"}, "labels": {"0": "background", "1": "liver"}, "licence": "CC0"},
        {
            "channel_names": ["CT", "PET"],
            "labels": {"liver": 1},
            "licence": "CC0",
            "numTraining": 3,
            "file_ending": ".png",
        },
    ],
)
def test_both_versions_of_nnunet_are_read(content, tmp_path):
    file = read_dataset_file(write(tmp_path, **content))
    assert (file.channel_names, file.labels, file.licence) == (("CT", "PET"), {"liver": (1,)}, "CC0")


def test_it_lies_beside_the_cases_or_above_a_split(tmp_path):
    write(tmp_path, name="a")
    for place in ("training", "validation", "testing", "train", "val", "test"):
        (tmp_path / place).mkdir()
        assert read_dataset_file(str(tmp_path / place)).name == "a"
        assert read_dataset_file(f"{tmp_path / place}/").name == "a"
    (tmp_path / "case1").mkdir()
    assert read_dataset_file(str(tmp_path / "case1")) is None and read_dataset_file(str(tmp_path / "no")) is None
    (tmp_path / "training.pack").write_bytes(b"")
    assert read_dataset_file(str(tmp_path / "training.pack")).name == "a"
    write(tmp_path / "training", name="a")
    assert read_dataset_file(str(tmp_path / "training")).name == "a"
    write(tmp_path / "training", name="b")
    with pytest.raises(DataError, match=r"training/dataset.json: differs from .*/dataset.json"):
        read_dataset_file(str(tmp_path / "training"))


def test_it_is_found_from_the_folder_itself(tmp_path, monkeypatch):
    write(tmp_path, name="a")
    (tmp_path / "training").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_dataset_file("training").name == read_dataset_file(".").name == "a"


@pytest.mark.parametrize(
    "content, words",
    [
        ({"channel_names": {"0": "a", "2": "b"}}, 'channel_names has the keys 0, 2; they must be "0", "1"'),
        ({"channel_names": {"0": 3}}, "channel_names must be a list of names"),
        ({"channel_names": "CT"}, "channel_names must be a list of names"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "one level to two structures"),
        ({"labels": {"background": 1, "a": 1}}, "one level to two structures"),
        ({"labels": {"a": 0}}, "one level to two structures"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "labels contains a name twice"),
        ({"labels": {"a": "one"}}, 'labels gives a the level "one"'),
        ({"labels": {"a": True}}, "labels gives a the level true"),
        ({"labels": ["a"]}, "labels must be an object"),
        ({"raters": ["A", "A"]}, "raters contains a name twice"),
        ({"raters": 4}, "raters must be a list of names"),
        ({"intensity_range": [400, -1000]}, r"intensity_range is \[400, -1000\]"),
        ({"intensity_range": [0]}, "two numbers are required"),
        ({"intensity_range": "0,1"}, "two numbers are required"),
        ({"licence": 3}, "licence must be text"),
    ],
)
def test_contradictions_are_refused(content, words, tmp_path):
    with pytest.raises(DataError, match=f"dataset.json: .*{words}.*; correct or remove it"):
        read_dataset_file(write(tmp_path, **content))
    (fault,) = dataset_faults(str(tmp_path))
    assert fault.startswith(f"{tmp_path}/dataset.json: ")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe{"])
def test_damaged_files_are_refused(content, tmp_path):
    (tmp_path / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match="dataset.json: not .*; repair or remove it"):
        read_dataset_file(str(tmp_path))


def test_a_structure_is_a_level():
    assert WHOLE.levels_of("cup") == (2,) and WHOLE.levels_of("disc") == (1,) and WHOLE.levels_of("both") == (1, 2)
    with pytest.raises(DataError, match="--structure liver is not among its labels, which are disc, cup, both"):
        WHOLE.levels_of("liver")
    assert DatasetFile(labels={"lesion": (1,)}).levels_of("lesion") is None  # whatever the levels of the files
    assert DatasetFile(labels={"lesion": (1,), "ignore": (2,)}).levels_of("lesion") == (1,)


def test_a_range_is_the_default_of_the_flag():
    config = DataConfig()
    assert with_intensity_range(config, None) is config and with_intensity_range(config, DatasetFile()) is config
    assert with_intensity_range(config, WHOLE).intensity_range == (-1000, 400)
    given = DataConfig(intensity_range=(0, 1))
    assert with_intensity_range(given, WHOLE) is given


@pytest.mark.parametrize(
    "found, words",
    [
        ({"modalities": ("0_red", "1_green"), "planes": 2, "levels": (0, 1, 2), "raters": 2}, None),
        ({"planes": 2}, None),
        ({"modalities": ("image",), "planes": 2}, None),
        ({"modalities": ("a", "b", "c"), "planes": 3}, "channel_names has 2 names, but each case has 3 image files"),
        ({"planes": 1}, "channel_names has 2 names, but each case has 1 planes"),
        ({"modalities": ("green", "red"), "planes": 2}, "in the order red, green, but .* in the order green, red"),
        ({"levels": (0, 1, 5)}, "labels does not name the level 5"),
        ({"levels": (0, 255)}, "labels does not name the level 255"),
        ({"raters": 3}, "raters has 2 names, but a case has 3 labels"),
    ],
)
def test_faults_are_what_contradicts_the_cases(found, words, tmp_path):
    assert dataset_faults(str(tmp_path), **found) == []
    write_dataset_file(str(tmp_path), WHOLE)
    faults = dataset_faults(str(tmp_path), **found)
    assert len(faults) == bool(words)
    if words:
        assert re.search(words, faults[0])


def test_masks_of_one_structure_may_have_any_two_levels(tmp_path):
    write_dataset_file(str(tmp_path), DatasetFile(labels={"foreground": (1,)}))
    assert dataset_faults(str(tmp_path), levels=(0, 255)) == []
    assert len(dataset_faults(str(tmp_path), levels=(0, 1, 2))) == 1
