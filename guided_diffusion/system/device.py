"""How fast the network runs: precision, memory layout, compilation, how many masks at a time."""

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

# More masks at a time than these gain little, and hold up the first case
MOST_IN_FLIGHT = {"cpu": 8, "cuda": 128}
SHARE_OF_MEMORY = 0.8  # that `fitting_batch_size` fills
# How PyTorch, CUDA and its libraries report it: besides a type of its own, in errors of any type
OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|_ALLOC(ATION)?_FAILED")


@config(resume="rounding")
class ComputeConfig:
    """How a network is computed."""

    amp: Annotated[
        Literal["none", "tf32", "bf16"],
        Flag("precision of the U-Net: float32, float32 with products in TF32 on a GPU, or bfloat16 where that is safe"),
    ] = "none"
    compile: Annotated[
        bool, Flag("compile the U-Net, on a GPU in sampling with CUDA graphs: minutes at the start, then faster")
    ] = False


@runtime_checkable
class HasNetwork(Protocol):
    """What the functions below need of a segmenter."""

    model: Any  # the nn.Module that is compiled, and that `autocast_dtype` and the channels-last layout belong to

    @property
    def num_timesteps(self) -> int:
        """The length of its chain; 1: it has none."""

    def to(self, device: torch.device, /) -> object:
        """Move all of it to a device."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its weights."""


AnySegmenter = TypeVar("AnySegmenter", bound=HasNetwork)


def prepare(
    segmenter: AnySegmenter, config: ComputeConfig, device: torch.device | str, channels_last: bool = True
) -> AnySegmenter:
    """Put a segmenter on `device` in the layout and the precision to run in; returns it.

    channels_last  the layout that convolutions are fastest in

    On a GPU this sets, for the whole process, whether float32 products may be rounded to TF32.
    ConfigError: TF32 on a CPU.
    """
    device = torch.device(device)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # pinned memory and CUDA graphs belong to the current one
        allow_tf32(config.amp == "tf32")
    elif config.amp == "tf32":
        raise ConfigError("--amp tf32 needs a GPU: a CPU computes in float32, which is --amp none")
    segmenter.to(device)
    if channels_last:
        segmenter.model.to(memory_format=torch.channels_last)
    if config.amp == "bf16":
        segmenter.model.autocast_dtype = torch.bfloat16
    return segmenter


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 convolutions and matrix products may round their factors to TF32.

    By PyTorch's default the convolutions alone may.
    """
    torch.backends.cudnn.allow_tf32 = allowed
    torch.backends.cuda.matmul.allow_tf32 = allowed


def compile_model(segmenter: AnySegmenter, cuda_graphs: bool = True) -> AnySegmenter:
    """Compile the U-Net where it is, for the one batch size that follows; returns the segmenter.

    cuda_graphs  on a GPU, replay the kernels as one graph: for sampling, where no gradient is needed

    ConfigError: there is no compiler to compile with.
    """
    check_compiler()
    graphs = cuda_graphs and next(segmenter.parameters()).device.type == "cuda"
    # Without a chain it sees images, of which a batch has any number
    dynamic = False if segmenter.num_timesteps > 1 else None
    segmenter.model.compile(mode="reduce-overhead" if graphs else "default", dynamic=dynamic)
    return segmenter


def eagerly() -> AbstractContextManager[Any]:
    """A context in which compiled networks run as they are written.

    It is for calls of other shapes or modes than they were compiled for.
    """
    if "torch._dynamo" not in sys.modules:  # nothing is compiled
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def check_compiler() -> None:
    """Refuse --compile where there is no compiler to compile with."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("--compile needs a C++ compiler: apt-get install g++")


# -- memory -----------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def fitting_batch_size(
    one_call: Callable[[torch.Tensor], object], image_shape: Sequence[int], device: torch.device | str, most: int
) -> int:
    """How many masks at a time fit into the free memory, at most `most` and at most MOST_IN_FLIGHT; 1 where 3 do not.

    one_call     called with images [B, C, H, W], as a segmenter is
    image_shape  [C, H, W]

    The memory is extrapolated from that of one mask and of three.
    Any error of `one_call` for a single mask, out of memory among them, is raised.
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
    """`size`, or less by quarters until a call of a compiled network fits into memory: its need is known when it runs.

    one_call, image_shape  as in fitting_batch_size
    """
    while True:
        try:
            # A CUDA graph is prepared by the first call, recorded by the second and replayed by the third
            for _ in range(3):
                one_call(torch.zeros(size, *image_shape, device=device))
            peak_memory(device)  # waits for the GPU, whose errors arrive late
            return size
        except RuntimeError as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        size = max(1, 3 * size // 4)
        torch.compiler.reset()  # with the graphs' memory
        if torch.device(device).type == "cuda":
            torch.cuda.empty_cache()


def reset_peak_memory(device: torch.device | str) -> None:
    """Begin to measure `peak_memory` anew; on a CPU only Linux can."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def peak_memory(device: torch.device | str) -> int:
    """The most bytes held at a time: by tensors on a GPU; by the process on a CPU (0 where the system does not say)."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _field_of("/proc/self/status", "VmHWM")


def free_memory(device: torch.device | str) -> int:
    """Bytes that may still be taken: on the GPU; on a CPU by the system and by the container's limit."""
    if torch.device(device).type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = _field_of("/proc/meminfo", "MemAvailable")
    limit, used = (_number_in(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    return free if limit is None or used is None else min(free, limit - used)


def _field_of(path: str, name: str) -> int:
    """A field of kilobytes of one of Linux's tables, in bytes; 0 where there is none."""
    if not os.path.exists(path):
        return 0
    with open(path) as file:
        found = re.search(rf"^{name}:\s*(\d+) kB", file.read(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _number_in(path: str) -> int | None:
    """The number that a file holds; None: there is no such file, or no limit in it."""
    try:
        with open(path) as file:
            return int(file.read())
    except (OSError, ValueError):
        return None


@contextmanager
def out_of_memory_as_error(device: torch.device | str, remedy: str) -> Iterator[None]:
    """A context in which out of memory becomes a ConfigError: the memory in use, and the `remedy`, flags to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ConfigError(f"out of memory, {memory_in_use(device)}: {remedy}") from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or one that it was raised from, reports a lack of memory.

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
    """The memory in use, in words."""
    if torch.device(device).type == "cuda":
        try:
            free, total = torch.cuda.mem_get_info(device)
        except RuntimeError:  # with no memory left not even that can be asked
            return "other programs have all of the GPU's"
        return f"{(total - free) / 2**30:.1f} of the GPU's {total / 2**30:.1f} GiB in use"
    return f"{peak_memory(device) / 2**30:.1f} GiB in use at most, {free_memory(device) / 2**30:.1f} GiB left"
