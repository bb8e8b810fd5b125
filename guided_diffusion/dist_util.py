"""Rank, world size, device, mean, gather, barrier: the same calls with and without a process group."""

import os

import torch
import torch.distributed as dist

from .nn import ConfigError


class Processes:
    """
    The processes of one run, as `torchrun` or `torch.distributed.launch` started them; a single one where nobody did.

    Reads RANK, WORLD_SIZE and LOCAL_RANK, writes no environment variable, and makes a process group only in `start`
    and only if there are several processes: gloo on CPUs, NCCL on GPUs. Use as a context: it ends the group.

    timeout  timedelta that one process waits for another before it gives up; None: as torch has it
    """

    def __init__(self, environ=os.environ, timeout=None):
        self.timeout = timeout
        self.rank = int(environ.get("RANK", 0))
        self.world_size = int(environ.get("WORLD_SIZE", 1))
        local_rank = int(environ.get("LOCAL_RANK", 0))
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if 0 < gpus <= local_rank:
            raise ConfigError(f"process {local_rank} of this machine has no GPU: {gpus} are visible; --nproc_per_node={gpus}?")
        self.device = torch.device("cuda", local_rank) if gpus else torch.device("cpu")

    def start(self):
        """Join the process group, if there are several processes."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world_size > 1:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=self.timeout)
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, *exception):
        if self.world_size > 1:
            dist.destroy_process_group()

    @property
    def is_main(self):
        return self.rank == 0

    def wrap(self, module):
        """`module` with its gradients averaged over the processes."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def sum(self, tensor):
        """The sum of `tensor` over the processes."""
        if self.world_size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor):
        """The tensors of all processes, one after another along the first dimension."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def barrier(self):
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()
