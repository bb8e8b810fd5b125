"""Out of memory: how it is recognised, and what is said of it."""

import pytest
import torch
from torch._inductor.exc import InductorError

from guided_diffusion.errors import ConfigError
from guided_diffusion.system.device import fitting_batch_size, memory_in_use, out_of_memory_as_error, running_batch_size


def wrapped(error):
    """As the compiler passes on what its calls of the GPU raise."""
    return InductorError(error, None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
        MemoryError("Unable to allocate 1.00 TiB for an array"),
        wrapped(torch.OutOfMemoryError("CUDA out of memory")),
        wrapped(wrapped(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))),
    ],
    ids=repr,
)
def test_out_of_memory_says_what_is_in_use_and_what_to_change(error):
    message = r"out of memory, a peak of \d+\.\d GiB in use, \d+\.\d GiB free: a smaller --batch_size"
    for raised, cause in ((error, None), (RuntimeError("a call failed"), error)):
        with pytest.raises(ConfigError, match=message), out_of_memory_as_error("cpu", "a smaller --batch_size"):
            raise raised from cause


@pytest.mark.parametrize(
    "error", [RuntimeError("something else"), wrapped(RuntimeError("a defect")), ValueError("out of memory")], ids=repr
)
def test_other_errors_are_left_as_they_are(error):
    with pytest.raises(type(error)) as raised, out_of_memory_as_error("cpu", ""):
        raise error
    assert raised.value is error


def test_an_error_while_one_of_memory_is_handled_is_not_one_of_memory():
    with pytest.raises(RuntimeError, match="a defect"), out_of_memory_as_error("cpu", ""):
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        except RuntimeError:
            raise RuntimeError("a defect")  # noqa: B904


def test_a_gpu_that_cannot_even_be_asked_is_no_second_error(monkeypatch):
    def ask(device):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "mem_get_info", ask)
    assert "GPU" in memory_in_use("cuda")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**30, 4 * 2**30))
    assert memory_in_use("cuda") == "3.0 of the GPU's 4.0 GiB in use"


def test_a_defect_in_the_trial_of_auto_is_raised():
    def one_call(image):
        if len(image) > 1:
            raise RuntimeError("a defect")  # noqa: B904

    with pytest.raises(RuntimeError, match="a defect"):
        fitting_batch_size(one_call, (1, 16, 16), "cpu", most=8)


def test_a_compiled_network_is_tried_with_fewer_masks_until_they_fit():
    counts = []

    def one_call(image):
        counts.append(len(image))
        if len(image) > 10:
            raise wrapped(torch.OutOfMemoryError("CUDA out of memory"))

    assert running_batch_size(one_call, (1, 2, 2), "cpu", 32) == 9
    assert counts == [32, 24, 18, 13, 9, 9, 9]


@pytest.mark.parametrize("error", [RuntimeError("a defect"), torch.OutOfMemoryError("CUDA out of memory")], ids=repr)
def test_what_no_smaller_batch_mends_is_raised(error):
    def one_call(image):
        raise error

    with pytest.raises(RuntimeError) as raised:
        running_batch_size(one_call, (1, 2, 2), "cpu", 1)
    assert raised.value is error
