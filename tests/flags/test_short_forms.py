"""Short forms of flags on the command line."""

from typing import Annotated

import pytest
from helpers import assert_refused, call_script

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.command_line import parse_command_line
from guided_diffusion.flags.fields import Flag, config


@config(resume="free")
class Example:
    """Three flags, two with a short form."""

    source: Annotated[str, Flag("where from", short="s", required=True)] = ""
    deep: Annotated[bool, Flag("all of it", short="d")] = False
    count: Annotated[int, Flag("how many")] = 1


def parsed(*words):
    found = parse_command_line((Example,), None, words)
    return found[Example], found.given


@pytest.mark.parametrize(
    "words", [["-s", "a b"], ["-sa b"], ["--source", "a b"], ["--source=a b"], ["-s", "x", "-s", "a b"]]
)
def test_both_forms_give_one_flag(words):
    config, given = parsed(*words, "--count", "3")
    assert (config.source, config.count, given) == ("a b", 3, {"source": "a b", "count": 3})


def test_a_bare_short_form_is_true():
    assert parsed("-s", "a", "-d")[0].deep and not parsed("-s", "a", "-d", "False")[0].deep


@pytest.mark.parametrize(
    "words", [["-s", "a", "--source", "a"], ["--source=a", "-s", "b"], ["-d", "-s", "a", "--source=b"]]
)
def test_both_forms_at_once_are_refused(words):
    with pytest.raises(ConfigError, match="-s.*--source|--source.*-s") as error:
        parsed(*words)
    assert "use only one of them" in str(error.value)


def test_what_is_missing_is_named_in_both_forms():
    with pytest.raises(ConfigError, match="--source or -s is missing"):
        parsed()
    with pytest.raises(ConfigError, match="-x: unexpected argument"):
        parsed("-s", "a", "-x", "b")


def test_sampling_takes_the_input_and_the_output_in_short():
    text = " ".join(call_script("segmentation_sample", "--help").stdout.split())
    assert "-i DATA_DIR, --data_dir DATA_DIR" in text and "-o OUT_DIR, --out_dir OUT_DIR" in text
    both = ["-i", "a", "--data_dir", "b", "--model_path", "c"]
    assert_refused(call_script("segmentation_sample", *both), "-i and --data_dir are the same flag")
    assert_refused(call_script("segmentation_sample", "-i", "a"), "--model_path is missing")
    assert_refused(call_script("segmentation_sample", "-i"), "expected one argument")
    assert_refused(call_script("segmentation_train", "-i", "a"), "-i: unexpected argument")
