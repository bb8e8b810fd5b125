"""Precision, memory layout, compilation and batch size: everything that affects the speed of the network."""

import ctypes
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from ..errors import ConfigError
from ..flags.fields import Flag, config

# Larger batches of masks are hardly faster, and delay the first case
MOST_IN_FLIGHT = {"cpu": 8, "cuda": 128}
SHARE_OF_MEMORY = 0.8  # share of the free memory that `fitting_batch_size` uses
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
# Messages of PyTorch, CUDA and its libraries, which report out of memory by exceptions of several types
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|_ALLOC(ATION)?_FAILED")


@config(resume="rounding")
class ComputeConfig:
    """Precision and compilation of the network."""

    amp: Annotated[
        Literal["none", "tf32", "bf16"],
        Flag("precision of the U-Net: float32, TF32 matrix products (GPU), or bfloat16 where that is safe"),
    ] = "none"
    compile: Annotated[
        bool,
        Flag(
            "compile the training loss, or the U-Net for sampling, with CUDA graphs on a GPU: faster after minutes of "
            "compilation"
        ),
    ] = False


@runtime_checkable
class HasNetwork(Protocol):
    """The part of a segmenter's interface that the functions below use."""

    model: Any  # the nn.Module to compile, with the attribute `autocast_dtype` and the channels-last layout

    @property
    def num_timesteps(self) -> int:
        """The length of the diffusion process; 1 for methods without one."""

    def to(self, device: torch.device, /) -> object:
        """Move all parameters and buffers to a device."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters."""

    def compile(self, *, dynamic: bool | None) -> object:
        """Compile the computation of the loss."""


AnySegmenter = TypeVar("AnySegmenter", bound=HasNetwork)


def prepare(
    segmenter: AnySegmenter, config: ComputeConfig, device: torch.device | str, channels_last: bool = True
) -> AnySegmenter:
    """Move a segmenter to `device`, and set its memory layout and precision; returns the segmenter.

    channels_last  use the channels-last layout, in which convolutions are fastest

    On a GPU, this enables or disables TF32 for the whole process, and has cuDNN choose its kernels by timing them.
    ConfigError: TF32 on a CPU.
    """
    device = torch.device(device)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # pinned memory and CUDA graphs use the current device
        torch.backends.cudnn.benchmark = True  # batches have few sizes
        allow_tf32(config.amp == "tf32")
    elif config.amp == "tf32":
        raise ConfigError("--amp tf32 needs a GPU: on a CPU, use --amp none or bf16")
    segmenter.to(device)
    if channels_last:
        segmenter.model.to(memory_format=torch.channels_last)
    if config.amp == "bf16":
        segmenter.model.autocast_dtype = torch.bfloat16
    return segmenter


def usable_device(device: torch.device | str) -> torch.device:
    """The device of this name. ConfigError: PyTorch does not know it, or cannot compute on it here."""
    reason = "unknown"
    try:
        found = torch.device(device)
        reason = ""
        torch.zeros(1, device=found).item()
    except Exception as error:  # backends raise any type of exception
        reason = reason or next(iter(str(error).splitlines()), type(error).__name__).split(". ")[0]
        usable = ", ".join(["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))])
        raise ConfigError(f"device {device} cannot be used ({reason}); usable here: {usable}") from error
    return found


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 convolutions and matrix products may use TF32; by default, only convolutions do."""
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def compile_model(segmenter: AnySegmenter, training: bool = False) -> AnySegmenter:
    """Compile in place, for a single batch size; returns the segmenter.

    training  compile the whole loss as one graph, instead of the network with CUDA graphs, which have no gradients

    ConfigError: no C++ compiler is installed.
    """
    check_compiler()
    # Without a diffusion process the batch is one of images, whose number varies
    dynamic = False if segmenter.num_timesteps > 1 else None
    if training:
        segmenter.compile(dynamic=dynamic)
    else:
        graphs = next(segmenter.parameters()).device.type == "cuda"
        segmenter.model.compile(mode="reduce-overhead" if graphs else "default", dynamic=dynamic)
    return segmenter


def eagerly() -> AbstractContextManager[Any]:
    """A context in which compiled networks run eagerly, for calls with other shapes or modes than compiled for."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def check_compiler() -> None:
    """ConfigError: no C++ compiler is installed."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("--compile needs a C++ compiler: install one, e.g. apt-get install g++, or remove --compile")


# -- memory -----------------------------------------------------------------------------------------------------------


def keep_freed_memory(device: torch.device | str) -> None:
    """Let this process keep the main memory that tensors free, for later ones; for commands that compute on a CPU.

    By default, glibc returns the memory of large tensors to the system, which clears every page before its next use.
    That can take longer than the computation. Has no effect with another C library or allocator.
    """
    if torch.device(device).type == "cpu":
        _call_glibc("mallopt", M_MMAP_MAX, 0)  # no tensor has a mapping of its own, which would end with it
        _call_glibc("mallopt", M_TRIM_THRESHOLD, 2**31 - 1)


def _call_glibc(name: str, *arguments: int) -> None:
    """Call a function of the C library; has no effect if the library does not have it."""
    if os.name == "posix" and hasattr(library := ctypes.CDLL(None), name):
        getattr(library, name)(*arguments)


@torch.inference_mode()
def fitting_batch_size(
    one_call: Callable[[torch.Tensor], object], image_shape: Sequence[int], device: torch.device | str, most: int
) -> int:
    """The number of masks that fit into the free memory, at most `most` and MOST_IN_FLIGHT.

    one_call     called with images [B, C, H, W], like a segmenter
    image_shape  [C, H, W]

    Extrapolates from the memory that one mask and three masks need; returns 1 if three do not fit.
    Any error of `one_call` for a single mask is raised, including out of memory.
    """
    most = min(most, MOST_IN_FLIGHT[torch.device(device).type])
    if most <= 3:
        return most
    peaks = []
    for count in (1, 3):
        reset_peak_memory(device)
        try:
            one_call(torch.zeros(count, *image_shape, device=device))
        except RuntimeError as error:
            if count == 1 or not is_out_of_memory(error):
                raise
            return 1
        peaks.append(peak_memory(device))
    each = (peaks[1] - peaks[0]) / 2
    room = peaks[0] + SHARE_OF_MEMORY * free_memory(device) - peaks[1]
    return most if each <= 0 else min(most, max(1, 3 + int(room / each)))


@torch.inference_mode()
def running_batch_size(
    one_call: Callable[[torch.Tensor], object], image_shape: Sequence[int], device: torch.device | str, size: int
) -> int:
    """`size`, reduced by a quarter until a call fits into memory; for compiled networks, whose need must be measured.

    one_call, image_shape  as in fitting_batch_size
    """
    while True:
        try:
            # The first call warms up, the second records the CUDA graph, the third replays it
            for _ in range(3):
                one_call(torch.zeros(size, *image_shape, device=device))
            peak_memory(device)  # synchronises with the GPU, whose errors are asynchronous
            return size
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        size = max(1, 3 * size // 4)
        torch.compiler.reset()  # also frees the memory of the CUDA graphs
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device | str) -> None:
    """Reset `peak_memory`; for CPUs, this is supported on Linux only. Freed memory goes back to the system."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.path.exists("/proc/self/clear_refs"):
        _call_glibc("malloc_trim", 0)
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def peak_memory(device: torch.device | str) -> int:
    """Peak memory in bytes: of all tensors on a GPU, or of the process on a CPU (0 if it is unknown)."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _field_of("/proc/self/status", "VmHWM")


def free_memory(device: torch.device | str) -> int:
    """Free memory in bytes: of the GPU, or, for a CPU, of the system within the container's limit."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = _field_of("/proc/meminfo", "MemAvailable")
    limit, used = (_number_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return free if limit is None or used is None else min(free, limit - used)


def _field_of(path: str, name: str) -> int:
    """A kilobyte field of a file in /proc, in bytes; 0 if it does not exist."""
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        found = re.search(rf"^{name}:\s*(\d+) kB", file.read(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _number_in(path: str) -> int | None:
    """The number in a file; None if the file does not exist or does not contain a number."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


@contextmanager
def out_of_memory_as_error(device: torch.device | str, remedy: str) -> Iterator[None]:
    """A context that turns out-of-memory errors into a ConfigError with the memory in use and the `remedy`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"out of memory, {memory_in_use(device)}: {remedy}") from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one of its causes, reports out of memory.

    Allocators raise torch.OutOfMemoryError or a plain RuntimeError, CUDA torch.AcceleratorError, cuBLAS and cuDNN a
    RuntimeError with their status, and the compiler wraps any of these (torch._inductor.exc.InductorError).
    """
    while error is not None:
        if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
            return True
        if isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or getattr(error, "inner_exception", None)
    return False


def memory_in_use(device: torch.device | str) -> str:
    """A description of the memory in use."""
    if torch.device(device).type == "cuda":
        try:
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError:  # even this query fails on a full GPU
            return "all GPU memory is in use by other programs"
        return f"{(total - free) / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB in use"
    return f"a peak of {peak_memory(device) / 2**30:.1f} GiB in use, {free_memory(device) / 2**30:.1f} GiB free"
