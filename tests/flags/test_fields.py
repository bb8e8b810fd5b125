"""Flags as fields: values from text, ranges, words, and how they are shown."""

from typing import Annotated, Literal

import pytest
import torch

from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.command_line import parse_command_line
from guided_diffusion.flags.configs import (
    Configs,
    configs_from_flags,
    differences,
    flags_from_configs,
    override,
    parse_flags,
    pick_flags,
)
from guided_diffusion.flags.fields import Flag, config, flag_fields, lower_first, nonempty, odd
from guided_diffusion.flags.retired import RetiredFlags, other_constants, without_constants
from guided_diffusion.flags.sizes import Size, as_size, show_size


@config(resume="new run", group="part")
class Example:
    count: Annotated[int | None, Flag("how many", none="all", at_least=1)] = None
    size: Annotated[int | Literal["auto"], Flag("of what", at_least=2, multiple_of=2)] = 8
    rates: Annotated[tuple[float, ...], Flag("rates", at_least=0, below=1, check=nonempty, resume="free")] = (0.5, 0.25)
    bounds: Annotated[tuple[float, ...] | None, Flag("LO,HI", none="auto", check=lower_first, group="")] = None
    kind: Annotated[Literal["a", "b"], Flag("which")] = "a"
    names: Annotated[tuple[str, ...], Flag("names", choices=("x", "y"))] = ()
    side: Annotated[int, Flag("side", check=odd)] = 1
    area: Annotated[Size, Flag("H,W", at_least=1)] = 64
    limit: Annotated[Size | None, Flag("H,W or none", none="none", at_least=1)] = None
    out: Annotated[str, Flag("folder", local=True)] = ""
    on: Annotated[bool, Flag("whether")] = False


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("count", "3", 3),
        *(("count", word, None) for word in ("all", "-1", "", "None", -1, None)),
        ("size", "auto", "auto"),
        ("size", 4.0, 4),
        ("rates", "0.5,0", (0.5, 0.0)),
        ("rates", 0.5, (0.5,)),
        ("bounds", "-1000,400", (-1000.0, 400.0)),
        ("bounds", "auto", None),
        ("kind", "b", "b"),
        ("names", "x,y", ("x", "y")),
        *(("area", given, 32) for given in ("32", 32, "32,32", (32, 32), [32, 32], [32], 32.0)),
        *(("area", given, (64, 96)) for given in ("64,96", " 64, 96", (64, 96), [64, 96])),
        *(("limit", word, None) for word in ("none", "-1", "", None)),
        ("limit", "64,96", (64, 96)),
        ("limit", "8", 8),
        *(("on", word, True) for word in ("True", "true", "yes", "1", True)),
        *(("on", word, False) for word in ("False", "no", "0", False)),
    ],
)
def test_values_from_text(name, text, value):
    (made,) = configs_from_flags({name: text}, Example)
    assert getattr(made, name) == value and type(getattr(made, name)) is type(value)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("count", 0, "--count 0: must be at least 1, or all"),
        ("count", "many", "--count many: must be an integer"),
        ("count", 2.5, "--count 2.5: must be an integer"),
        ("size", 3, "--size 3: must be at least 2 and a multiple of 2"),
        ("rates", "0.5,1", "--rates 0.5,1: each must be at least 0 and below 1"),
        ("rates", "nan", "--rates nan: each must be a finite number"),
        ("rates", "", "--rates : needs at least one value"),
        ("bounds", "5,-1000", "--bounds 5,-1000: must be LO,HI with LO < HI"),
        ("bounds", "5", "--bounds 5: must be LO,HI"),
        ("kind", "c", "--kind c is unknown: choose one of a, b"),
        ("names", "x,z", "--names z is unknown: choose one of x, y"),
        ("side", 2, "--side 2: must be odd"),
        *(
            ("area", given, f"--area {given}: must be an integer, or two as H,W (height, width), e.g. 64,96")
            for given in ("1,2,3", "64,", ",64", "64x96", "wide", "64,wide", "1.5", "64,1.5", "", ",", "none")
        ),
        ("area", [64, 96, 3], "--area 64,96,3: must be an integer, or two"),
        ("area", (), "--area : must be an integer, or two"),
        ("area", None, "--area none: must be an integer, or two"),
        ("area", "0", "--area 0: must be at least 1"),
        ("area", "-64", "--area -64: must be at least 1"),
        ("area", "64,0", "--area 64,0: each must be at least 1"),
        ("area", "-1,64", "--area -1,64: each must be at least 1"),
        ("limit", "0,0", "--limit 0: must be at least 1, or none"),
        ("limit", "64,0", "--limit 64,0: each must be at least 1, or none"),
        ("limit", "all", "--limit all: must be an integer, or two"),
        ("out", "gs://bucket/x", "--out gs://bucket/x: results can only be written to a local folder"),
        ("on", "maybe", "--on maybe: must be True or False"),
        ("conut", 1, "--conut is not a flag of this command; did you mean --count?"),
    ],
)
def test_a_bad_value_is_named_as_it_was_typed(name, value, words):
    with pytest.raises(ConfigError) as refusal:
        Example(**parse_flags({name: value}, Example))
    assert str(refusal.value).startswith(words)


def test_a_size_is_one_number_for_a_square_wherever_it_comes_from():
    for square in (Example(area=(32, 32)), Example(area=32), Example(area=torch.Size((32, 32)), limit=None)):
        assert square.area == 32 and flags_from_configs(square)["area"] == 32 and as_size(square.area) == (32, 32)
    rectangle = Example(area=torch.Size((64, 96)), limit=[8, 8])
    assert rectangle == Example(area=(64, 96), limit=8) and flags_from_configs(rectangle)["area"] == [64, 96]
    for wrong in ((64,), (64, 96, 3), (64, 0), [0, 64]):
        with pytest.raises(ConfigError, match="--area"):
            Example(area=wrong)
    assert show_size((64, 96)) == "64,96" and show_size((64, 64)) == "64"
    assert differences({"area": 64}, {"area": [64, 96]}, Example) == ["--area 64, not 64,96"]
    assert differences({"area": [64, 96]}, {"area": 64}, Example) == ["--area 64,96, not 64"]


def test_what_is_shown_can_be_typed():
    for made in (
        Example(),
        Example(area=(64, 96), limit=(3, 4)),
        Example(count=3, rates=(0.1, 0.999), bounds=(-1.5, 2.0), names=("x",), size="auto"),
    ):
        shown = {name: field.show(getattr(made, name)) for name, field in flag_fields(Example).items()}
        assert list(configs_from_flags(shown, Example)) == [made]


def test_a_flag_has_its_class_s_rules_where_it_has_none_of_its_own():
    fields = flag_fields(Example)
    assert fields["rates"].flag.resume == "free" and fields["kind"].flag.resume == "new run"
    assert fields["bounds"].flag.group == "" and fields["kind"].flag.group == "part"


def test_configs_give_objects_by_class_and_flags_back():
    configs = configs_from_flags({"count": "7", "rates": "0.5", "elsewhere": 1}, Example, RetiredFlags)
    assert configs[Example].count == 7 and configs.classes == (Example, RetiredFlags)
    assert configs.flags() == flags_from_configs(configs[Example])  # retired ones at their constants are not stored
    assert configs.flags()["rates"] == [0.5]
    assert configs.replace(count=8)[Example].count == 8 and configs[Example].count == 7
    assert pick_flags({"count": 1, "elsewhere": 2}, Example) == {"count": 1}
    with pytest.raises(KeyError):
        Configs([])[Example]


def test_differences_name_both_values_as_typed_and_take_the_default_for_what_is_not_stored():
    now = {"count": None, "rates": [0.5], "kind": "b", "seed": 3}
    assert differences({"count": 2, "seed": 4}, now, Example) == [
        "--count 2, not all",
        "--rates 0.5,0.25, not 0.5",
        "--kind a, not b",
        "--seed 4, not 3",
    ]
    assert differences({"count": 2}, now, Example, free=("count", "rates", "kind")) == []


@config()
class Planes:
    planes: Annotated[int | Literal["auto"], Flag("a number of the cases", from_cases=True)] = 4
    size: Annotated[int | Literal["auto"], Flag("a number of the machine")] = 1


def test_auto_stands_for_any_stored_number_of_the_cases():
    assert differences({"planes": 2, "size": 3}, {"planes": "auto", "size": "auto"}, Planes) == ["--size 3, not auto"]
    assert differences({}, {"planes": "auto"}, Planes) == []
    assert differences({"planes": 2}, {"planes": 4}, Planes) == ["--planes 2, not 4"]
    assert override({"planes": 2, "size": 3}, {"planes": "auto", "size": "auto"}, Planes) == {
        "planes": 2,
        "size": "auto",
    }
    assert override({}, {"planes": "auto"}, Planes) == {"planes": "auto"}
    assert override({"planes": 2, "other": 1}, {"planes": 4}, Planes) == {"planes": 4, "other": 1}


# -- the command line -------------------------------------------------------------------------------------------------


@config()
class Needs:
    src: Annotated[str, Flag("file of the source", required=True)] = ""
    pair: Annotated[str, Flag("a word", twin="word")] = ""
    word: Annotated[str, Flag("the same", twin="pair")] = "w"


def test_presets_come_before_defaults_and_after_what_is_given():
    presets = {"p": {"src": "preset", "word": "preset", "elsewhere": 1}}
    configs = parse_command_line((Needs,), "", ["--preset", "p", "--src", "given"], presets)
    assert configs[Needs] == Needs("given", "", "preset")
    assert configs.given == {"src": "given"} and configs.preset == {"src": "preset", "word": "preset"}
    twin = parse_command_line((Needs,), "", ["--preset", "p", "--pair", "given"], presets)
    assert twin[Needs] == Needs("preset", "given", "w")


def test_a_required_flag_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="--src is missing: file of the source"):
        parse_command_line((Needs,), "", [])


def test_help_shows_types_words_and_defaults(capsys):
    with pytest.raises(SystemExit):
        parse_command_line((Example,), "What it does.", ["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "how many [all]" in text and "rates [0.5,0.25]" in text and "which; one of a, b [a]" in text
    assert "loss_weighting" not in text and "ngpu" not in text


def test_retired_flags_are_accepted_with_a_line_at_what_they_have_become(capsys):
    argv = ["--src=x", "--ngpu=4", "--loss_weighting=uniform", "--combiner_layers=4"]
    configs = parse_command_line((Needs,), "", argv)
    assert configs.given == {"src": "x"}
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in lines] == ["--ngpu", "--loss_weighting", "--combiner_layers"]
    assert all("has no effect: " in line for line in lines)
    with pytest.raises(ConfigError, match="--loss_weighting min-snr is no longer supported: the squared error"):
        parse_command_line((Needs,), "", ["--src=x", "--loss_weighting=min-snr"])


def test_constants_that_were_flags_are_dropped_from_what_is_stored():
    stored = {"seed": 1, "ema_halflife": 500, "mc_samples": 20}
    assert without_constants(stored) == {"seed": 1, "ema_halflife": 500}
    assert other_constants(stored) == ["--ema_halflife 500"]
