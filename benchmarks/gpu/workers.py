"""Several processes of one run, forked by a stage before it uses a GPU."""

import multiprocessing
import os
import queue
import time
import traceback
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from guided_diffusion import script_util
from guided_diffusion.dist_util import gradient_traffic
from guided_diffusion.flags.configs import configs_from_flags
from guided_diffusion.methods.registry import MODEL_CONFIGS
from guided_diffusion.system.device import ComputeConfig, prepare

from .compare import relative_error
from .networks import images, readme_flags
from .timing import is_cuda, synchronize

WAIT = timedelta(seconds=120)  # for another process


def start_group(backend, store, rank, size, device):
    """Join the process group with the file store `store`."""
    given = {"device_id": torch.device(device)} if backend == "nccl" else {}
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=size, timeout=WAIT, **given)


def training_segmenter(settings, device, amp="none", channels_last=None):
    """The paper README's segmenter, ready to train, equal in all processes; by default in the training layout."""
    torch.manual_seed(0)
    segmenter = script_util.create_segmenter(configs_from_flags(readme_flags(settings), *MODEL_CONFIGS))
    with torch.no_grad():
        for p in segmenter.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.02)
    channels_last = is_cuda(device) if channels_last is None else channels_last
    return prepare(segmenter.train(), ComputeConfig(amp), device, channels_last)


def training_batch(settings, count, device):
    """The arguments of a segmenter's forward for `count` masks, the same on every device."""
    generator = torch.Generator().manual_seed(7)
    image, side = images(settings, count, seed=7, device="cpu"), settings.sizes.image_size
    mask = (torch.rand(count, 1, side, side, generator=generator) < 0.3).float()
    t = torch.randint(0, 1000, (count,), generator=generator)
    noise = torch.randn(count, 1, side, side, generator=generator)
    return [part.to(device) for part in (image, mask, t, noise)]


def backward(module, batch, weight=1.0):
    """Add the gradients of a batch's mean loss, times `weight`."""
    (weight * module(*batch)["loss"].mean()).backward()


def gradients(module):
    """{name: gradient} of the trained parameters, in float32 on the CPU."""
    return {name: p.grad.detach().float().cpu().clone() for name, p in module.named_parameters() if p.grad is not None}


def largest_error(found, expected):
    """The largest relative error over the tensors of {name: tensor}; the names must be equal."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    scale = max(float(value.norm()) for value in expected.values())
    return max(relative_error(found[name], value) for name, value in expected.items() if value.norm() > 1e-4 * scale)


def wrapped(segmenter, device):
    """`segmenter` under DDP, wrapped as in dist_util."""
    ids = [torch.device(device)] if is_cuda(device) else None
    return DistributedDataParallel(segmenter, device_ids=ids, gradient_as_bucket_view=True)


# -- functions that run in several processes --------------------------------------------------------------------------


def shared_gradients(settings, rank, size, device):
    """{"gradient_error"}: parts of a batch in several processes against the whole batch in one process."""
    batch = training_batch(settings, 2 * size, device)
    segmenter = training_segmenter(settings, device)
    backward(segmenter, batch)
    expected = gradients(segmenter)
    segmenter.zero_grad(set_to_none=True)
    module = wrapped(segmenter, device)
    backward(module, [part[2 * rank : 2 * rank + 2] for part in batch])
    return {"gradient_error": largest_error(gradients(segmenter), expected)}


def training_rate(settings, rank, size, device):
    """{"images_per_second", "ms"} of training steps in all processes, each with its own batch."""
    count = settings.sizes.train_batch
    segmenter = training_segmenter(settings, device, settings.amp)
    module = wrapped(segmenter, device)
    optimizer = torch.optim.AdamW(segmenter.parameters(), lr=1e-4, fused=True)
    batch = training_batch(settings, count, device)

    def step():
        with gradient_traffic(module, True):
            backward(module, batch)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(3):
        step()
    dist.barrier()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(settings.sizes.train_steps):
        step()
    synchronize(device)
    dist.barrier()
    ms = 1000 * (time.perf_counter() - began) / settings.sizes.train_steps
    return {"images_per_second": 1000 * size * count / ms, "ms": ms}


def _enter(function, settings, group, rank, results):
    backend, devices, store = group
    try:
        device = devices[rank]
        if is_cuda(device):
            torch.cuda.set_device(device)
        start_group(backend, store, rank, len(devices), device)
        results.put((rank, function(settings, rank, len(devices), device)))
        dist.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        results.put((rank, traceback.format_exc().strip().splitlines()[-1]))
        results.close()
        results.join_thread()
        os._exit(1)  # a broken group may hang in a regular shutdown


def run_processes(function, settings, backend, devices, name):
    """[function(settings, rank, size, device)] from one process for each of `devices`.

    They are forked, so this process must not have used CUDA. RuntimeError: a process failed or timed out.
    """
    context = multiprocessing.get_context("fork")
    results, store = context.Queue(), settings.folder(f"store_{name}")
    group = backend, devices, store
    arguments = [(function, settings, group, rank, results) for rank in range(len(devices))]
    processes = [context.Process(target=_enter, args=given, daemon=True) for given in arguments]
    for process in processes:
        process.start()
    try:
        found = _collect(results, processes, name, 600 if settings.dry_run else 70)
        for process in processes:
            process.join(10)
    finally:
        for process in processes:
            process.kill()
    return [found[rank] for rank in range(len(devices))]


def _collect(results, processes, name, seconds):
    """{rank: result} of all processes, within `seconds`."""
    end, found = time.monotonic() + seconds, {}
    while len(found) < len(processes):
        try:
            rank, report = results.get(timeout=0.2)
        except queue.Empty:
            if time.monotonic() > end:
                raise RuntimeError(
                    f"{name}: {len(processes) - len(found)} of {len(processes)} processes timed out after {seconds} s"
                ) from None
            if any(process.exitcode not in (None, 0, 1) for process in processes):
                raise RuntimeError(
                    f"{name}: the processes ended with {[process.exitcode for process in processes]}"
                ) from None
            continue
        if isinstance(report, str):
            raise RuntimeError(f"{name}, process {rank}: {report}")
        found[rank] = report
    return found
