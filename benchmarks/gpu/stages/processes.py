"""Distributed training: two gloo processes on one card; NCCL, forced DDP and sharded weights with one process."""

import copy

import torch
import torch.distributed as dist

from guided_diffusion.dist_util import full, gradient_traffic, whole

from .. import workers
from ..compare import equal_bits
from ..record import require
from ..timing import is_cuda

LIMIT = 1e-3  # relative error of a gradient in float32


def collectives(add, device):
    """all-reduce, gather and barrier with one process return its own values."""
    tensor = torch.randn(1000, device=device)
    summed = tensor.clone()
    dist.all_reduce(summed)
    parts, things = [torch.empty_like(tensor)], [None]
    dist.all_gather(parts, tensor)
    dist.all_gather_object(things, {"a": 1})
    dist.barrier()
    report = {
        "all_reduce": torch.equal(summed, tensor),
        "all_gather": torch.equal(parts[0], tensor),
        "gather_objects": things == [{"a": 1}],
        "barrier": True,
    }
    add(**report)
    require(all(report.values()), f"a collective with one process changed its value: {report}")


def ddp(add, settings, expected, batch):
    """Gradients under DDP, of a whole batch and of two halves, the first without communication."""
    segmenter = workers.training_segmenter(settings, settings.device)
    module = workers.wrapped(segmenter, settings.device)
    workers.backward(module, batch)
    error = workers.largest_error(workers.gradients(segmenter), expected)
    segmenter.zero_grad(set_to_none=True)
    half = len(batch[0]) // 2
    for part, last in ((slice(None, half), False), (slice(half, None), True)):
        with gradient_traffic(module, last):
            workers.backward(module, [tensor[part] for tensor in batch], 0.5)
    of_halves = workers.largest_error(workers.gradients(segmenter), expected)
    add(gradient_error=error, no_sync_gradient_error=of_halves, limit=LIMIT)
    require(max(error, of_halves) < LIMIT, "gradients under DDP differ")


def sharded(add, settings, expected, batch):
    """Gradients and an optimizer step of weights sharded over one process."""
    from torch.distributed.fsdp import fully_shard  # which may ask for a GPU, and processes are forked before

    plain = workers.training_segmenter(settings, settings.device, channels_last=False)  # which cannot be sharded
    state = copy.deepcopy(plain.state_dict())
    mesh = dist.init_device_mesh(torch.device(settings.device).type, (1,))
    for part in plain.shardable():
        fully_shard(part, mesh=mesh)
    add(weights_equal_bits=equal_bits(whole(plain.state_dict()), state))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-4, fused=True)
    workers.backward(plain, batch)
    found = {name: full(p.grad).float().cpu() for name, p in plain.named_parameters() if p.grad is not None}
    error = workers.largest_error(found, expected)
    optimizer.step()
    moved = not equal_bits(whole(plain.state_dict()), state)
    add(gradient_error=error, moved=moved, limit=LIMIT)
    require(error < LIMIT and moved, "training with sharded weights differs")


def two_on_one_card(add, settings):
    """Two gloo processes share a batch and a card; they are forked before this process uses the card."""
    found = workers.run_processes(workers.shared_gradients, settings, "gloo", [settings.device] * 2, "two_on_one_card")
    error = max(report["gradient_error"] for report in found)
    add(gradient_error=error, limit=LIMIT)
    require(error < LIMIT, f"gradients of two processes differ by {error:.2e}")


def run(record, settings):
    with record.part("two_processes_gloo") as add:
        two_on_one_card(add, settings)
    backend = "nccl" if is_cuda(settings.device) else "gloo"
    record.add(backend=backend)
    if is_cuda(settings.device):
        torch.cuda.set_device(settings.device)
    with record.part("group_of_one") as add:
        workers.start_group(backend, settings.folder("store_one"), 0, 1, settings.device)
        collectives(add, settings.device)
    batch = workers.training_batch(settings, 4, settings.device)
    alone = workers.training_segmenter(settings, settings.device)
    workers.backward(alone, batch)
    expected = workers.gradients(alone)
    with record.part("ddp") as add:
        ddp(add, settings, expected, batch)
    with record.part("fully_shard") as add:
        sharded(add, settings, expected, batch)
    dist.destroy_process_group()
