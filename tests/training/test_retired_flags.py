"""Checkpoints of version 0.1 whose flags have become constants: they can be sampled from, and not resumed."""

import pytest
import torch
from helpers import LEAST, as_arguments, assert_refused, call_script, segmenter_of

from guided_diffusion.checkpoints.format import FORMAT, VERSION
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.script_util import MODEL_CONFIGS, load_segmenter

UNET = {"method": "prob-unet", "image_size": 16, "image_channels": 1, "num_filters": "2,4", "no_convs_per_block": 1}


def write_former(path, **flags):
    """A checkpoint as version 0.1 stored it, with flags that are constants now."""
    constants = {"loss_weighting": "uniform", "weight_norm": 2e-6, "combiner_layers": 4, "mc_samples": 20}
    weights = segmenter_of({**UNET, **flags}).state_dict()
    stored = {**configs_from_flags(UNET, *MODEL_CONFIGS).flags(), **constants, **flags}
    torch.save({"format": FORMAT, "version": VERSION, "step": 0, "flags": stored, "weights": weights, "ema": {}}, path)
    return weights


def test_a_network_of_another_depth_is_built_as_it_was(tmp_path):
    weights = write_former(tmp_path / "former.pt", combiner_layers=2)
    model = load_segmenter(str(tmp_path / "former.pt"), {})
    assert model.segmenter.state_dict().keys() == weights.keys()
    assert sum("combiner" in name and "weight" in name for name in weights) == 2
    assert model.configs.flags()["combiner_layers"] == 2 and "mc_samples" not in model.configs.flags()


def test_a_flag_of_the_loss_does_not_matter_in_sampling(tmp_path):
    write_former(tmp_path / "former.pt", weight_norm=0.5, loss_weighting="min-snr")
    assert load_segmenter(str(tmp_path / "former.pt"), {}).segmenter is not None


@pytest.mark.parametrize(
    "name, value, words",
    [("ema_halflife", 500, "--ema_halflife 500"), ("loss_weighting", "min-snr", "--loss_weighting min-snr")],
)
def test_a_run_with_another_value_is_not_resumed(cases, tmp_path, name, value, words):
    def run(steps):
        where = [f"--data_dir={cases}", f"--log_dir={tmp_path}"]
        return call_script(
            "segmentation_train", *where, "--batch_size=2", f"--iterations={steps}", *as_arguments(LEAST)
        )

    assert run(1).returncode == 0
    path = tmp_path / "savedmodel000001.pt"
    state = torch.load(path, weights_only=True)
    state["flags"][name] = value
    torch.save(state, path)
    (tmp_path / "manifest.json").unlink()  # it has the hash of the file as it was
    assert_refused(run(2), words, "no longer supported")
    del state["flags"][name]
    torch.save(state, path)
    assert run(2).returncode == 0
