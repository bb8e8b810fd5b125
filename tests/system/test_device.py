"""Precision, attention kernels and compilation: what can be seen of them without a GPU."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers import ROOT, TINY, nonzero, segmenter_of
from torch.nn.attention import SDPBackend, sdpa_kernel

from guided_diffusion.attention import AttentionBlock
from guided_diffusion.data.config import DataConfig
from guided_diffusion.dist_util import Processes
from guided_diffusion.errors import ConfigError
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.lidcloader import LIDCDataset
from guided_diffusion.predict import Predictor
from guided_diffusion.sampling.samplers import SamplerConfig
from guided_diffusion.script_util import MODEL_CONFIGS, LoadedModel
from guided_diffusion.system.device import ComputeConfig, allow_tf32, prepare
from guided_diffusion.training.validation import ValidationConfig, Validator


class CountingBackend:
    """A compiler that counts the graphs that it is given, and leaves them as they are."""

    def __init__(self):
        torch.compiler.reset()
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def tiny_segmenter(**flags):
    torch.manual_seed(0)
    return nonzero(segmenter_of({**TINY, **flags}))


@pytest.mark.parametrize("new_order", [False, True])
@pytest.mark.parametrize("heads", [1, 4])
def test_a_fused_kernel_takes_the_attention(new_order, heads):
    """Fused kernels refuse queries whose channels are not adjacent; the answer is that of the plain products."""
    block = AttentionBlock(64, heads, new_order)
    torch.nn.init.normal_(block.proj_out.weight)
    x = torch.randn(3, 64, 8, 8).to(memory_format=torch.channels_last)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where that kernel cannot be used
        fused = block(x)
    with sdpa_kernel(SDPBackend.MATH):
        torch.testing.assert_close(fused, block(x), atol=1e-5, rtol=1e-5)
    assert fused.is_contiguous(memory_format=torch.channels_last)


def test_tf32_is_a_choice_that_a_cpu_refuses():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    try:
        for allowed in (True, False):
            allow_tf32(allowed)
            assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == (allowed, allowed)
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    with pytest.raises(ConfigError, match="--amp tf32 needs a GPU"):
        prepare(tiny_segmenter(), ComputeConfig(amp="tf32"), "cpu")


@pytest.mark.parametrize(
    "flags",
    [{}, {"method": "mc-dropout", "dropout": 0.3}, {"method": "prob-unet"}, {"method": "ssn"}, {"method": "unet"}],
)
@pytest.mark.usefixtures("unchecked")
def test_the_network_is_one_graph(flags):
    """Without a break, at which a compiled network would fall back to Python."""
    segmenter, backend = tiny_segmenter(**flags).eval(), CountingBackend()
    image, noise = torch.rand(2, 1, 16, 16), torch.randn(2, 100)
    inputs = (torch.rand(2, 2, 16, 16), torch.tensor([3, 20])) if not flags else (image,)
    if flags.get("method") == "mc-dropout":
        inputs = (image, noise[:, : sum(segmenter.model.dropped)])
    expected = segmenter.model(*inputs)
    segmenter.model.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(segmenter.model(*inputs), expected)
    assert backend.graphs == 1


def test_a_training_loss_is_one_graph():
    """From the first call, and without another compilation later; without shape checks, which would break it."""
    code = """
import torch
from helpers import ROOT, TINY, nonzero, segmenter_of

SHARED = {"architecture": "shared-encoder", "feature_channels": 4, "denoiser_mult": "1,1", "prediction": "x0"}
GUESSES = {**SHARED, "encoder_guesses": 3, "guess_weight": 0.5, "stable_target": True, "learn_sigma": False}
others = [{"method": "implicit-ensemble", **GUESSES}, {"method": "prob-unet"}, {"method": "ssn"}]
for flags in ({}, SHARED, *others):
    segmenter, graphs = nonzero(segmenter_of({**TINY, **flags})), []
    image, masks, rows = torch.rand(2, 1, 16, 16), (torch.rand(4, 1, 16, 16) > 0.5).float(), torch.tensor([0, 0, 1, 1])
    inputs = (image, masks, torch.zeros(4, dtype=torch.long), torch.randn(4, *segmenter.noise_shape((16, 16))), rows)
    torch.compiler.reset()
    segmenter.compile(backend=lambda graph, _: graphs.append(graph) or graph.forward, fullgraph=True)
    found = [segmenter(*inputs) for _ in range(3)][-1]
    with torch.compiler.set_stance("force_eager"):
        torch.testing.assert_close(found, segmenter(*inputs))
    assert len(graphs) == 1
"""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("unchecked")
def test_validation_compiles_nothing(cases):
    dataset, backend = LIDCDataset(cases, 16, 1), CountingBackend()
    segmenter = tiny_segmenter().train()
    validator = Validator(
        dataset,
        ValidationConfig(eval_cases=3, eval_ensemble=2, eval_steps=3),
        SamplerConfig(),
        Processes({}),
        0,
        batch_size=4,
    )
    expected = validator.score(segmenter)
    segmenter.compile(backend=backend)

    def train():
        return segmenter(torch.rand(4, 1, 16, 16), torch.ones(4, 1, 16, 16), torch.tensor([1, 2, 3, 4]))["loss"]

    train()
    compiled = backend.graphs
    assert compiled > 0 and validator.score(segmenter) == expected
    train()
    assert backend.graphs == compiled


@pytest.mark.usefixtures("unchecked")
def test_a_compiled_predictor_is_compiled_once(cases):
    """Whatever batch size later calls name; after a few recompilations PyTorch runs it uncompiled without a word."""
    segmenter, backend = tiny_segmenter().eval(), CountingBackend()
    model = LoadedModel(segmenter, configs_from_flags(TINY, DataConfig, *MODEL_CONFIGS), {})
    image = np.full((16, 16), 0.5, dtype=np.float32)
    eager = Predictor(model).sample(image, 3, steps=2)
    segmenter.model.compile(backend=backend, dynamic=False)
    compiled = Predictor(model, compiled=True)
    for batch_size in (2, 1, 3, 5):
        np.testing.assert_allclose(
            compiled.sample(image, 3, steps=2, batch_size=batch_size).samples, eager.samples, atol=1e-5
        )
    assert backend.graphs == 1


def test_kept_memory_is_used_again():
    """A large tensor, freed and allocated again, has its pages already: no page faults."""
    code = """
import resource, sys, torch
from guided_diffusion.system.device import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory("cpu")
torch.set_num_threads(1)
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**25)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sum(faults[-5:]))
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("keep", "default")
    }
    if faults["default"] < 5000:
        pytest.skip("the system maps large pages, or the allocator is another one")
    assert faults["keep"] < 100
