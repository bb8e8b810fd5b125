"""Flags as they are typed: what a shell makes of the text is parsed to the same values."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guided_diffusion.data.config import DataConfig
from guided_diffusion.flags.command_line import name_first_word, parse_command_line
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.flags.typed import typed_flags
from guided_diffusion.training.config import TrainConfig

CLASSES = (TrainConfig, DataConfig)


def parsed(text):
    return parse_command_line(CLASSES, None, shlex.split(text))


def test_only_what_is_not_at_its_default_is_typed():
    configs = configs_from_flags({"lr": 2e-3, "ema_rate": (0.5, 0.9), "microbatch": None, "seed": 0}, *CLASSES)
    assert (
        typed_flags(configs.values, *CLASSES)
        == "--lr 0.002 --ema_rate 0.5,0.9"
        == typed_flags(configs.flags(), *CLASSES)
    )
    assert typed_flags({"seed": 0, "lr": 1e-4}, TrainConfig, always={"seed"}) == "--seed 0"
    assert typed_flags({"lr": 2e-3, "pad": True, "unknown": 1}, TrainConfig) == "--lr 0.002"
    assert typed_flags({}, TrainConfig) == ""


@pytest.mark.parametrize(
    "flags, text",
    [
        ({"intensity_range": (-1000.0, 400.0)}, "--intensity_range=-1000,400"),
        ({"structure": "-x"}, "--structure=-x"),
        ({"structure": "left lung's $HOME"}, """--structure 'left lung'"'"'s $HOME'"""),
        ({"data_dir": "my cases;rm -r"}, "--data_dir 'my cases;rm -r'"),
        ({"keep": None, "label_threshold": 0.5}, "--keep all --label_threshold 0.5"),
        ({"lr": 0.1 + 0.2, "pad": True}, "--lr 0.30000000000000004 --pad True"),
    ],
)
def test_values_are_quoted_for_a_shell(flags, text):
    assert typed_flags(flags, *CLASSES) == text
    required = {} if "data_dir" in flags else {"data_dir": "x"}
    found = parsed(typed_flags({**required, **flags}, *CLASSES)).given
    assert found == {**required, **flags}


@given(
    structure=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), lr=st.floats(1e-300, 1e300)
)
def test_any_text_and_number_comes_back(structure, lr):
    text = typed_flags({"data_dir": "x", "structure": structure, "lr": lr}, *CLASSES)
    found = parsed(text)
    assert found[DataConfig].structure == structure and found[TrainConfig].lr == lr


def test_a_first_word_without_a_flag_is_the_value_of_a_flag(monkeypatch):
    assert name_first_word(["a b", "--lr=1"], "path") == ["--path=a b", "--lr=1"]
    assert name_first_word(["--lr=1", "a"], "path") == ["--lr=1", "a"] and name_first_word([], "path") == []
    monkeypatch.setattr("sys.argv", ["info.py", "x.pt"])
    assert name_first_word(None, "path") == ["--path=x.pt"]
