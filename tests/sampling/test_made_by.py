"""The configs that samples were drawn with, from what is stored with them."""

import json
from dataclasses import replace

import pytest

from guided_diffusion.data.config import DataConfig
from guided_diffusion.errors import DataError
from guided_diffusion.flags.configs import flags_from_configs
from guided_diffusion.sampling import store
from guided_diffusion.sampling.config import SampleConfig, data_config_of, identity

DATA = DataConfig(intensity_range=(-1000.0, 400.0), label_threshold=0.25, grey=True, pad=True, resize=False)


@pytest.mark.parametrize("data", [DATA, DataConfig(), DataConfig(structure="cup"), replace(DATA, merge_labels=True)])
def test_the_config_of_reading_is_restored(data):
    made_by = identity(SampleConfig(), None, 1, "none", flags_from_configs(data), "")
    assert data_config_of(made_by) == data == data_config_of(store.spread(made_by))
    hash(data_config_of(made_by))  # its lists are tuples again


def test_given_flags_replace_stored_ones():
    made_by = identity(SampleConfig(), None, 1, "none", flags_from_configs(DATA), "")
    given = {"label_threshold": 0.5, "intensity_range": None}
    assert data_config_of({**store.spread(made_by), **given}) == replace(
        DATA, label_threshold=0.5, intensity_range=None
    )
    assert data_config_of({"label_threshold": 0.5}).label_threshold == 0.5  # given, for samples of another program


def test_flags_of_the_first_version_are_translated():
    first = {"label_threshold": 0.5, "merge_labels": False, "intensity_range": [0, 255], "resize": True, "pad": False}
    assert data_config_of({"flags": json.dumps(first)}) == DataConfig(intensity_range=(0.0, 255.0))
    assert data_config_of({"flags": json.dumps({**first, "label_threshold": 0.3})}).label_threshold == 0.3


def test_what_other_programs_store_is_no_flag():
    assert data_config_of({}) == data_config_of({"model": "other", "seed": 3}) == DataConfig()


@pytest.mark.parametrize(
    "made_by", [{"flags": "no JSON"}, {"flags": json.dumps({"resize": "perhaps"})}, {"label_threshold": 7}]
)
def test_invalid_flags_are_a_fault_of_the_samples(made_by):
    with pytest.raises(DataError, match="flags"):
        data_config_of(made_by)
