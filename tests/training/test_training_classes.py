"""Training on several classes and on cases with ignored pixels: draws, microbatches, two processes."""

import dataclasses
import os
from types import SimpleNamespace

import pytest
import torch
from helpers import LEAST, nonzero
from small_runs import learnt, same

from guided_diffusion.data.config import DataConfig
from guided_diffusion.data.stream import collate
from guided_diffusion.dist_util import Processes
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.lidcloader import Case, LIDCDataset
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.script_util import create_segmenter
from guided_diffusion.train_util import Trainer
from guided_diffusion.training.config import TrainConfig
from guided_diffusion.training.draws import draw_inputs
from guided_diffusion.training.start import find_start
from guided_diffusion.training.thread_choice import blank_step

FLAGS = {
    **LEAST,
    "method": "implicit-ensemble",
    "architecture": "shared-encoder",
    "denoiser_mult": "1",
    "encoder_guesses": 2,
    "prediction": "x0",
    "mask_low": -1,
    "learn_sigma": False,
    "guess_weight": 0.5,
    "stable_target": True,
    "raters_per_image": 2,
    "batch_size": 4,
    "iterations": 2,
    "augment": "flip+rotate+deform",
    "classes": "a,b",
}


class ClassCases(LIDCDataset):
    """The phantom cases with a second class beside the first, and with ignored pixels in every other case.

    painted  what all raters have at ignored pixels, of both classes
    """

    painted = 0.0

    def __getitem__(self, index):
        case = super().__getitem__(index)
        ignored = torch.zeros(case.image.shape[1:], dtype=torch.bool)
        ignored[2:5, 3:] = index % 2 == 0
        first = case.raters
        raters = torch.stack([first, (1 - first) * first.roll(2, dims=1)], dim=1)
        raters = torch.where(ignored, self.painted, raters)
        return dataclasses.replace(case, raters=raters, ignored=ignored)


@pytest.fixture
def dataset(cases):
    return ClassCases(cases, LEAST["image_size"], LEAST["image_channels"])


def segmenter_of(flags):
    torch.manual_seed(0)
    return nonzero(create_segmenter(configs_from_flags(flags, DataConfig, *MODEL_CONFIGS)))


def train(dataset, folder, **given):
    """The trainer of a run that has ended."""
    configs = configs_from_flags({**FLAGS, "log_dir": str(folder), **given}, DataConfig, TrainConfig, *MODEL_CONFIGS)
    flags = configs.flags()
    folder.mkdir()
    start = find_start(configs, flags)
    trainer = Trainer(segmenter_of(flags), dataset, configs[TrainConfig], Processes({}), flags, start)
    trainer.run()
    return trainer


@pytest.mark.parametrize("classes", ["a,b", "whole=1+2,core=2"])
@pytest.mark.parametrize("method", ["implicit-ensemble", "cimd", "prob-unet", "ssn", "unet"])
def test_what_is_painted_on_ignored_pixels_changes_no_run(dataset, tmp_path, method, classes):
    """Every weight is bit for bit the same, after steps of both kinds of cases."""
    flags = {"method": method, "classes": classes}
    if method != "implicit-ensemble":
        flags |= {"architecture": "unet", "encoder_guesses": 1, "guess_weight": 0}
    runs = {}
    for painted in (0.0, 1.0):
        dataset.painted = painted
        trainer = train(dataset, tmp_path / f"{painted}", **flags)
        runs[painted] = learnt(trainer)["weights"]
    assert same(*runs.values())
    assert trainer.state.bad_steps == 0


@pytest.mark.parametrize("augment", ["none", "flip+rotate+deform"])
def test_microbatches_of_several_classes_with_ignored_pixels(dataset, tmp_path, augment):
    whole, parts = (
        train(dataset, tmp_path / f"{size}", microbatch=size, iterations=1, augment=augment) for size in (4, 2)
    )
    assert float(whole.grad_norm) == pytest.approx(float(parts.grad_norm), rel=1e-4)
    for a, b in zip(whole.state.optimizer.state.values(), parts.state.optimizer.state.values(), strict=True):
        torch.testing.assert_close(a["exp_avg"], b["exp_avg"], rtol=1e-3, atol=1e-6)


def inputs_of(cases, segmenter, **flags):
    """The drawn inputs of one step on these cases."""
    (config,) = configs_from_flags({**FLAGS, **flags}, TrainConfig)
    u = SimpleNamespace(sample=lambda u: ((u * segmenter.num_timesteps).long(), torch.ones(len(u))))
    state = SimpleNamespace(segmenter=segmenter, schedule_sampler=u)
    return draw_inputs(collate(cases), range(4), config, state)


@pytest.mark.parametrize("augment", ["none", "flip+rotate", "flip+rotate+deform+elastic"])
def test_masks_and_map_are_changed_as_the_image_is(augment):
    """Of a picture that is each of them, the image shows where they are."""
    plane = torch.zeros(16, 16)
    plane[3:9, 2:6], plane[10:12, 11:15] = 1, 1
    image = torch.stack([plane, 1 - plane, plane])
    raters = torch.stack([plane, 1 - plane])[None].expand(3, -1, -1, -1)
    ignored = torch.zeros(16, 16, dtype=torch.bool)
    ignored[5:8, 8:11] = True
    segmenter = segmenter_of({**FLAGS, "image_channels": 3, "image_size": 16})
    images = [torch.cat([image[:2], ignored[None].float()]), image]
    cases = [Case("a", images[0], raters, ignored=ignored), Case("b", images[1], raters)]
    drawn = inputs_of(cases, segmenter, augment=augment)
    assert drawn.mask.shape == (4, 2, 16, 16) and drawn.valid.shape == (2, 1, 16, 16)
    each = drawn.valid[[0, 0, 1, 1]]
    sure = (each > 0) & ((drawn.image[[0, 0, 1, 1], :1] - 0.5).abs() > 1e-3)
    for channel in range(2):
        shown = drawn.image[[0, 0, 1, 1], channel : channel + 1] > 0.5
        assert torch.equal(shown[sure], drawn.mask[:, channel : channel + 1][sure] > 0.5)
    assert torch.equal(drawn.valid[0, 0] == 0, drawn.image[0, 2] > 1e-3) and (drawn.valid[1] == 1).all()
    assert (drawn.valid[0] == 0).sum() >= 9 or "deform" in augment
    assert inputs_of([cases[1], cases[1]], segmenter, augment=augment).valid is None


def test_a_part_has_the_map_of_its_images(dataset):
    segmenter = segmenter_of(FLAGS)
    drawn = inputs_of([dataset[0], dataset[1]], segmenter)
    part = drawn.part(slice(2, 4), 2)
    assert torch.equal(part.valid, drawn.valid[1:]) and torch.equal(part.mask, drawn.mask[2:])
    moved = drawn.to(torch.device("cpu"))
    assert all(torch.equal(a, b) for a, b in zip(moved, drawn, strict=True))


def test_threads_are_timed_with_masks_of_all_classes():
    segmenter = segmenter_of(FLAGS)
    blank_step(segmenter, (1, 8, 8), num_images=2, raters_per_image=2)
    assert all(p.grad is None for p in segmenter.parameters())


def gradients_in_two(path):
    """In each of two processes: the gradients of its half of a batch, of which only the first has ignored pixels."""
    with Processes(os.environ) as processes:
        segmenter = segmenter_of(FLAGS)
        inputs = torch.load(path / "inputs.pt", weights_only=False)
        mine = inputs.part(slice(2 * processes.rank, 2 * processes.rank + 2), 2)
        valid = mine.valid if processes.rank == 0 else None
        module = processes.wrap(segmenter)
        rows = torch.zeros(2, dtype=torch.long)
        module(mine.image, mine.mask, mine.t, mine.noise, rows, valid=valid)["loss"].mean().backward()
        if processes.is_main:
            torch.save([p.grad for p in segmenter.parameters()], path / "gradients.pt")


@pytest.mark.multi_process
def test_two_processes_of_which_one_has_ignored_pixels_equal_one(ranks, dataset, tmp_path):
    segmenter = segmenter_of(FLAGS)
    inputs = inputs_of([dataset[0], dataset[1]], segmenter)
    assert (inputs.valid[0] == 0).any() and (inputs.valid[1] == 1).all()
    torch.save(inputs, tmp_path / "inputs.pt")
    done = ranks.run(tmp_path, gradients_in_two, tmp_path)
    assert done.returncode == 0, done.stderr
    rows = torch.tensor([0, 0, 1, 1])
    segmenter(inputs.image, inputs.mask, inputs.t, inputs.noise, rows, valid=inputs.valid)["loss"].mean().backward()
    for own, p in zip(torch.load(tmp_path / "gradients.pt"), segmenter.parameters(), strict=True):
        torch.testing.assert_close(own, p.grad, rtol=1e-3, atol=1e-5)
