"""Rank, world size, device, sum, gather, barrier: one interface with and without a process group."""

import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
import torch.distributed as dist
from torch import nn

from .errors import ConfigError
from .system.threads import wait_until_idle

# The number of processes, set by Open MPI, by MPICH and Intel MPI, and by PMIx
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")
# While rank 0 saves, hashes and uploads a checkpoint of any size, the other processes wait
LONGEST_WAIT = timedelta(hours=3)
# Gradients are averaged in pieces of this size, where a compiled network is split too
BUCKET_MB = 100


class Processes:
    """The processes of one run, started by `torchrun`, `torch.distributed.launch` or `mpiexec`; one without a launcher.

    Reads RANK, WORLD_SIZE and LOCAL_RANK, or queries MPI; never sets environment variables. The process group is
    created in `start`, and only for several processes. Use as a context manager, which destroys the group on exit.

    timeout  how long a process waits for the others before it gives up
    backend  backend of the process group; None: NCCL on GPUs, gloo on CPUs
    ConfigError: fewer GPUs than processes on this machine, or MPI without mpi4py.
    """

    def __init__(
        self, environ: Mapping[str, str] = os.environ, timeout: timedelta = LONGEST_WAIT, backend: str | None = None
    ) -> None:
        self.timeout = timeout
        self.address: str | None = "env://" if "MASTER_ADDR" in environ else None  # of the rendezvous
        self.attempt = environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        if "RANK" not in environ and any(int(environ.get(name, 1)) > 1 for name in MPI_SIZES):
            self.rank, self.world_size, self.local_rank, self.local_size, self.address = ask_mpi()
        else:
            self.rank, self.world_size = int(environ.get("RANK", 0)), int(environ.get("WORLD_SIZE", 1))
            self.local_rank = int(environ.get("LOCAL_RANK", 0))
            self.local_size = int(environ.get("LOCAL_WORLD_SIZE", 1))
        gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
        self.device = torch.device("cuda", self._choose_gpu(gpus)) if gpus else torch.device("cpu")
        self.backend = backend or ("nccl" if gpus else "gloo")
        self.store: dist.Store | None = None

    def _choose_gpu(self, count: int) -> int:
        """The index of this process's GPU among `count` visible GPUs. ConfigError: too few GPUs are visible."""
        if count > self.local_rank:
            return self.local_rank
        if count == 1 and self.world_size > 1 and self.address:
            return 0  # the launcher shows each process its own GPU; `check_cards` verifies this
        raise ConfigError(
            f"no GPU for local rank {self.local_rank}: {count} visible; start at most {count} processes on this "
            f"machine (--nproc_per_node={count})"
        )

    def meet(self) -> dist.Store:
        """The rendezvous store of this attempt, through which the processes find each other."""
        if self.address is None:
            raise ConfigError("WORLD_SIZE is set, but MASTER_ADDR and MASTER_PORT are not: use torchrun")
        if self.store is None:
            # torchrun --max-restarts keeps its store. Without a prefix per attempt, a restarted process could read
            # stale addresses of the previous attempt and wait for them.
            store, _, _ = next(dist.rendezvous(self.address, self.rank, self.world_size, timeout=self.timeout))
            self.store = dist.PrefixStore(f"attempt{self.attempt}", store)
        return self.store

    def card(self) -> list[str]:
        """[host, UUID] of this process's GPU; equal for two processes only if they share a GPU."""
        return [socket.gethostname(), str(torch.cuda.get_device_properties(self.device).uuid)]

    def check_cards(self) -> None:
        """Refuse two processes on one GPU, before NCCL is initialised and any tensor is allocated.

        `start` calls this. If it is called earlier, every process must call it. Does nothing on CPUs, or without a
        rendezvous address from the launcher.

        ConfigError: two processes on one GPU.
        """
        if self.device.type == "cuda" and self.world_size > 1 and self.address:
            torch.cuda.set_device(self.device)
            refuse_shared_cards(self.meet(), self.rank, self.world_size, self.card())

    def start(self) -> Self:
        """Join the process group, if there are several processes."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)
        if self.world_size > 1:
            self.check_cards()
            # device_id makes NCCL create the communicator here, on this GPU, and so raise its errors here.
            dist.init_process_group(
                self.backend,
                store=self.meet(),
                rank=self.rank,
                world_size=self.world_size,
                timeout=self.timeout,
                device_id=self.device if self.backend == "nccl" else None,
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.world_size == 1 or kind is not None:  # after an error, waiting for the other processes could deadlock
            return
        # A gloo thread needs the GIL to free a finished reduction, and the group's destructor holds the GIL while it
        # joins its threads: a deadlock, unless those threads are idle first.
        wait_until_idle()
        dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, the process that writes files."""
        return self.rank == 0

    # -- modules shared by the processes ------------------------------------------------------------------------------

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap `module` so that its gradients are averaged over the processes."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(
            module,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            broadcast_buffers=False,  # they are constants
            bucket_cap_mb=BUCKET_MB,
            gradient_as_bucket_view=True,
        )

    def shard(self, modules: Iterable[nn.Module]) -> None:
        """Shard the weights and gradients of each module over the processes, in place (FSDP).

        A module's attribute `calls` names the methods beside `forward` that use its weights.
        """
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = dist.init_device_mesh(self.device.type, (self.world_size,))
        for module in modules:
            fully_shard(module, mesh=mesh)
            for name in getattr(module, "calls", ()):
                register_fsdp_forward_method(module, name)

    # -- tensors ------------------------------------------------------------------------------------------------------

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of `tensor` over the processes."""
        if self.world_size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, concatenated along the first dimension."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_objects(self, thing: Any) -> list[Any]:
        """The objects of all processes, as a list in rank order."""
        if self.world_size == 1:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing)
        return things

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world_size > 1:
            dist.barrier()


def refuse_shared_cards(store: dist.Store, rank: int, world_size: int, card: Sequence[str]) -> None:
    """Compare the GPUs of all processes over `store`. Every process must call this; all raise, or none does.

    card  [host, UUID] of this process's GPU
    ConfigError: two processes share a GPU.
    """
    ranks = range(world_size)
    store.set(f"card{rank}", json.dumps(card))
    store.wait([f"card{other}" for other in ranks], LONGEST_WAIT)
    cards = [tuple(json.loads(store.get(f"card{other}"))) for other in ranks]
    store.set(f"compared{rank}", "yes")
    if rank == 0:  # the store may live in this process, so wait until the others have read it
        store.wait([f"compared{other}" for other in ranks], LONGEST_WAIT)
    for host, uuid in cards:
        sharing = [str(other) for other in ranks if cards[other] == (host, uuid)]
        if len(sharing) > 1:
            count = len({card for card in cards if card[0] == host})
            raise ConfigError(
                f"ranks {' and '.join(sharing)} share one GPU of {host}: start one process per GPU "
                f"(--nproc_per_node={count})"
            )


class MpiPlace(NamedTuple):
    """The ranks and the rendezvous address of a process started by MPI."""

    rank: int
    world_size: int
    local_rank: int  # among the processes on this machine
    local_size: int
    address: str  # of the rendezvous


def ask_mpi() -> MpiPlace:
    """This process's rank and address, from MPI. ConfigError: mpi4py or the MPI library is missing."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise ConfigError(f"started by mpiexec, but MPI cannot be used ({error}): pip install mpi4py mpich") from error
    world = MPI.COMM_WORLD
    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    host = "127.0.0.1" if here.size == world.size else socket.gethostname()
    with socket.socket() as listener:  # finds a free port on the machine of rank 0
        listener.bind(("", 0))
        address = world.bcast(f"tcp://{host}:{listener.getsockname()[1]}", root=0)
    return MpiPlace(world.rank, world.size, here.rank, here.size, address)


@contextmanager
def _sharded_traffic(parts: Iterable[Any], sync: bool) -> Iterator[None]:
    for part in parts:
        part.set_requires_gradient_sync(sync, recurse=False)
    yield


def gradient_traffic(module: nn.Module, sync: bool) -> AbstractContextManager[None]:
    """A context that sets whether a backward pass synchronises the gradients of `module` between the processes.

    module  a wrapped or sharded module; has no effect on any other
    """
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        return nullcontext() if sync else module.no_sync()
    parts = [part for part in module.modules() if hasattr(part, "set_requires_gradient_sync")]
    return _sharded_traffic(parts, sync)


def reshard_all(module: nn.Module) -> None:
    """Free the unsharded weights that the parts of a sharded module hold; has no effect on other modules."""
    parts: list[Any] = [part for part in module.modules() if hasattr(part, "reshard")]
    for part in parts:
        part.reshard()


# -- tensors of sharded modules; ordinary tensors are returned unchanged -----------------------------------------------


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The full tensor, gathered from its shards. Every process must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole(state: Any, keep: bool = True) -> Any:
    """A nested state with every tensor gathered and moved to the CPU, one at a time.

    keep  whether this process needs the tensors; False: it takes part in gathering them, and returns None for each
    """
    if isinstance(state, dict):
        return {key: whole(value, keep) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value, keep) for value in state]
    if not isinstance(state, torch.Tensor):
        return state
    tensor = full(state)
    return tensor.cpu() if keep else None


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This process's shard, as a view."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def like(whole: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """A full tensor, present in every process, with the device, memory layout and sharding of `reference`."""
    if hasattr(reference, "device_mesh") and hasattr(reference, "placements"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = reference.device_mesh, reference.placements
        return distribute_tensor(whole.to(reference.device), mesh, placements, src_data_rank=None)
    return torch.empty_like(reference).copy_(whole)
