"""In the tests the method's modules check the shapes that their annotations state."""

import importlib
import pkgutil

import jaxtyping
import pytest
import shape_checks
import torch
from helpers import LEAST, segmenter_of

from guided_diffusion.gaussian_diffusion import DiffusionConfig
from guided_diffusion.nn import mean_flat, timestep_embedding
from guided_diffusion.respace import create_gaussian_diffusion

PROCESS = create_gaussian_diffusion(DiffusionConfig(diffusion_steps=40))
MASKS, T = torch.zeros(2, 1, 8, 8), torch.tensor([3, 4])


def modules():
    """Every module that is to be checked."""
    for name in shape_checks.MODULES:
        module = importlib.import_module(name)
        yield module
        for found in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{name}."):
            yield importlib.import_module(found.name)


def test_every_module_of_the_method_is_checked():
    loaders = {module.__name__: type(module.__spec__.loader).__name__ for module in modules()}
    assert len(loaders) > 20 and set(loaders.values()) == {"_JaxtypingLoader"}, loaders


@pytest.mark.parametrize(
    "call, word",
    [
        (lambda: mean_flat(torch.zeros(2, dtype=torch.int64)), "mean_flat"),
        (lambda: timestep_embedding(torch.zeros(2, 1), 8), "timestep_embedding"),
        (lambda: PROCESS.q_sample(MASKS, torch.tensor([3]), MASKS), "q_sample"),
        (lambda: PROCESS.q_sample(MASKS, T, MASKS[:, :, :4]), "q_sample"),
        (lambda: segmenter_of(LEAST)(MASKS, MASKS, T, rows=T[:1]), "AmbiguousSegmenter.forward"),
    ],
)
def test_a_wrong_shape_is_an_error(call, word):
    with pytest.raises(jaxtyping.TypeCheckError, match=word):
        call()


def test_a_late_call_in_a_loop_is_not_checked():
    for _ in range(shape_checks.CALLS):
        mean_flat(torch.zeros(2, 3))
    mean_flat(torch.zeros(2, 3, dtype=torch.complex64))
    shape_checks.begin_test()
    with pytest.raises(jaxtyping.TypeCheckError):
        mean_flat(torch.zeros(2, 3, dtype=torch.complex64))


def test_what_is_compiled_is_not_checked(unchecked):
    assert PROCESS.q_sample(MASKS, torch.tensor([3]), MASKS).shape == MASKS.shape
