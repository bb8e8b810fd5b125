"""Rank, world size, device, sum, gather, barrier: the same calls with and without a process group."""

import os
import socket
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed as dist

from .nn import ConfigError

# Set by the launchers of MPI, by Open MPI, MPICH (and Intel MPI), and PMIx, with the number of processes
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")


class Processes:
    """
    The processes of one run, as `torchrun`, `torch.distributed.launch` or `mpiexec` started them; a single one where
    nobody did.

    Reads RANK, WORLD_SIZE and LOCAL_RANK, or else asks MPI; writes no environment variable; makes a process group only in
    `start` and only if there are several processes: gloo on CPUs, NCCL on GPUs. Use as a context: it ends the group.

    timeout  timedelta that one process waits for another before it gives up; None: as torch has it
    ConfigError: fewer GPUs than processes on this machine, or MPI without mpi4py.
    """

    def __init__(self, environ=os.environ, timeout=None):
        self.timeout, self.address = timeout, "env://"
        self.attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if "RANK" not in environ and any(int(environ.get(name, 1)) > 1 for name in MPI_SIZES):
            self.rank, self.world_size, self.local_rank, self.local_size, self.address = ask_mpi()
        else:
            self.rank, self.world_size = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
            self.local_rank, self.local_size = int(environ.get("LOCAL_RANK", 0)), int(environ.get("LOCAL_WORLD_SIZE", 1))
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if 0 < gpus <= self.local_rank:
            raise ConfigError(
                f"process {self.local_rank} of this machine has no GPU: {gpus} are visible; --nproc_per_node={gpus}?"
            )
        self.device = torch.device("cuda", self.local_rank) if gpus else torch.device("cpu")

    def start(self):
        """Join the process group, if there are several processes."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world_size > 1:
            # torchrun --max-restarts keeps its store: without a prefix of its own, an attempt could read the addresses of
            # processes that the one before left there, and wait for them.
            store, _, _ = next(dist.rendezvous(self.address, self.rank, self.world_size))
            dist.init_process_group(
                "nccl" if self.device.type == "cuda" else "gloo", store=dist.PrefixStore(f"attempt{self.attempt}", store),
                rank=self.rank, world_size=self.world_size, timeout=self.timeout,
            )  # fmt: skip
        return self

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *exception):
        if self.world_size > 1 and kind is None:  # else the others may be waiting for this one, and it for them
            dist.destroy_process_group()

    @property
    def is_main(self):
        return self.rank == 0

    # -- modules shared by the processes ------------------------------------------------------------------------------

    def wrap(self, module):
        """`module` with its gradients averaged over the processes."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def shard(self, modules):
        """Share the weights of each of the modules, and so its gradients, out over the processes, in place."""
        from torch.distributed.fsdp import fully_shard

        mesh = dist.init_device_mesh(self.device.type, (self.world_size,))
        for module in modules:
            fully_shard(module, mesh=mesh)

    # -- tensors ------------------------------------------------------------------------------------------------------

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

    def gather_objects(self, thing):
        """What each process has, in a list; plain values."""
        if self.world_size == 1:
            return [thing]
        things = [None] * self.world_size
        dist.all_gather_object(things, thing)
        return things

    def barrier(self):
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def ask_mpi():
    """(rank, world size, rank and number of processes on this machine, address at which to meet) from MPI."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise ConfigError(f"started by mpiexec, yet MPI cannot be used ({error}): pip install mpi4py mpich") from error
    world = MPI.COMM_WORLD
    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    host = "127.0.0.1" if here.size == world.size else socket.gethostname()
    with socket.socket() as listener:  # a port that is free on the first process's machine
        listener.bind(("", 0))
        address = world.bcast(f"tcp://{host}:{listener.getsockname()[1]}", root=0)
    return world.rank, world.size, here.rank, here.size, address


@contextmanager
def _sharded_traffic(parts, wanted):
    for part in parts:
        part.set_requires_gradient_sync(wanted, recurse=False)
    yield


def gradient_traffic(module, wanted):
    """A context in which a backward pass shares the gradients of `module`, wrapped or sharded, among the processes or not."""
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        return nullcontext() if wanted else module.no_sync()
    return _sharded_traffic([part for part in module.modules() if hasattr(part, "set_requires_gradient_sync")], wanted)


# -- tensors of sharded modules; of others, these give back what they are given ----------------------------------------


def full(tensor):
    """The whole of a tensor of which this process may have a shard. Every process must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole(state):
    """A nested state with every tensor whole and on the CPU, one after another."""
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return full(state).cpu() if isinstance(state, torch.Tensor) else state


def local(tensor):
    """This process's shard, sharing its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def like(whole, reference):
    """A whole tensor, which every process has, with the device, the layout in memory and the shards of `reference`."""
    if hasattr(reference, "device_mesh"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(whole.to(reference.device), reference.device_mesh, reference.placements, src_data_rank=None)
    return torch.empty_like(reference).copy_(whole)
