"""bfloat16 on a CPU: refused where it is slower than float32, and recommended where it may be faster."""

import pytest
import torch
from helpers import assert_refused, call_script

from guided_diffusion.errors import ConfigError
from guided_diffusion.system import precision
from guided_diffusion.system.device import ComputeConfig
from guided_diffusion.system.precision import advise_on_precision

has_bf16 = precision.has_bf16  # before the fixture `processor` replaces it


def test_a_processor_without_bfloat16_refuses_it():
    assert advise_on_precision(ComputeConfig(), "cpu") == []
    with pytest.raises(ConfigError, match="--amp bf16: this processor has no bfloat16"):
        advise_on_precision(ComputeConfig(amp="bf16"), "cpu")
    assert advise_on_precision(ComputeConfig(amp="bf16"), "cuda:0") == []


def test_a_processor_with_bfloat16_recommends_it(processor):
    processor()
    assert advise_on_precision(ComputeConfig(amp="bf16"), "cpu") == []
    assert "--amp bf16 may be faster" in advise_on_precision(ComputeConfig(), "cpu")[0]
    assert advise_on_precision(ComputeConfig(), "cuda") == []


@pytest.mark.parametrize(
    "capabilities, expected",
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx2": True}, True),
        ({"avx2": True}, False),
        ({}, True),
    ],
)
def test_bfloat16_is_a_capability_of_the_processor(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert has_bf16() == expected


def test_both_commands_check_it(cases, tmp_path):
    train = call_script("segmentation_train", f"--data_dir={cases}", f"--log_dir={tmp_path}", "--amp=bf16")
    assert_refused(train, "--amp bf16")
    sample = call_script(
        "segmentation_sample", f"--data_dir={cases}", "--model_path=phantom", f"--out_dir={tmp_path}", "--amp=bf16"
    )
    assert_refused(sample, "--amp bf16")
