"""Rank, world size, device, sum, gather, barrier: the same calls with and without a process group."""

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

# Set by the launchers of MPI, by Open MPI, MPICH (and Intel MPI), and PMIx, with the number of processes
MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE")
# The first process saves, hashes and uploads checkpoints of any size while the others wait
LONGEST_WAIT = timedelta(hours=3)


class Processes:
    """The processes of one run.

    `torchrun`, `torch.distributed.launch` or `mpiexec` started them; without one of these there is a single one. Reads
    RANK, WORLD_SIZE and LOCAL_RANK, or else asks MPI; writes no environment variable; makes a process group only in
    `start` and only if there are several processes. Use as a context: it ends the group.

    timeout  how long one process waits for another before it gives up
    backend  of the process group; None: NCCL on GPUs, gloo on CPUs
    ConfigError: fewer GPUs than processes on this machine, or MPI without mpi4py.
    """

    def __init__(
        self, environ: Mapping[str, str] = os.environ, timeout: timedelta = LONGEST_WAIT, backend: str | None = None
    ) -> None:
        self.timeout = timeout
        self.address: str | None = "env://" if "MASTER_ADDR" in environ else None  # at which to meet
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
        """The index of this process's GPU among `count` visible ones. ConfigError: there is none for it."""
        if count > self.local_rank:
            return self.local_rank
        if count == 1 and self.world_size > 1 and self.address:
            return 0  # the launcher shows each process its own card; `check_cards` makes sure of it
        raise ConfigError(
            f"process {self.local_rank} of this machine has no GPU: {count} are visible; --nproc_per_node={count}?"
        )

    def meet(self) -> dist.Store:
        """The store of this attempt, over which the processes find each other."""
        if self.address is None:
            raise ConfigError("WORLD_SIZE is set, but MASTER_ADDR and MASTER_PORT are not: use torchrun")
        if self.store is None:
            # torchrun --max-restarts keeps its store: without a prefix of its own, an attempt could read the addresses
            # of processes that the one before left there, and wait for them.
            store, _, _ = next(dist.rendezvous(self.address, self.rank, self.world_size, timeout=self.timeout))
            self.store = dist.PrefixStore(f"attempt{self.attempt}", store)
        return self.store

    def card(self) -> list[str]:
        """[host, UUID] of this process's GPU: the same for two processes only if they use the same one."""
        return [socket.gethostname(), str(torch.cuda.get_device_properties(self.device).uuid)]

    def check_cards(self) -> None:
        """Refuse two processes on one GPU, before NCCL or any tensor is there.

        `start` calls this; before that every process must call it, or none. Does nothing on CPUs, nor where no launcher
        says where to meet.

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
            # With device_id the communicator is formed here, on this card, and an error of NCCL is raised here.
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
        if self.world_size == 1 or kind is not None:  # after an error the others may wait for this one, and it for them
            return
        # A thread of gloo that still has to free a finished reduction needs Python's lock for that. The group's
        # destructor holds this lock while it waits for its threads, so that both could wait for each other for ever.
        wait_until_idle()
        dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this is the first process, the one that writes."""
        return self.rank == 0

    # -- modules shared by the processes ------------------------------------------------------------------------------

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module` with its gradients averaged over the processes."""
        if self.world_size == 1:
            return module
        return torch.nn.parallel.DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type == "cuda" else None, gradient_as_bucket_view=True
        )

    def shard(self, modules: Iterable[nn.Module]) -> None:
        """Share the weights of each of the modules, and so its gradients, out over the processes, in place."""
        from torch.distributed.fsdp import fully_shard

        mesh = dist.init_device_mesh(self.device.type, (self.world_size,))
        for module in modules:
            fully_shard(module, mesh=mesh)

    # -- tensors ------------------------------------------------------------------------------------------------------

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of `tensor` over the processes."""
        if self.world_size > 1:
            tensor = tensor.clone()
            dist.all_reduce(tensor)
        return tensor

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensors of all processes, one after another along the first dimension."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def gather_objects(self, thing: Any) -> list[Any]:
        """What each process has, in a list; plain values."""
        if self.world_size == 1:
            return [thing]
        things: list[Any] = [None] * self.world_size
        dist.all_gather_object(things, thing)
        return things

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()


def refuse_shared_cards(store: dist.Store, rank: int, world_size: int, card: Sequence[str]) -> None:
    """Compare the GPUs of all processes over `store`. Every process must call this; all raise, or none does.

    card  [host, UUID] of this process's GPU
    ConfigError: two processes have the same one.
    """
    ranks = range(world_size)
    store.set(f"card{rank}", json.dumps(card))
    store.wait([f"card{other}" for other in ranks], LONGEST_WAIT)
    cards = [tuple(json.loads(store.get(f"card{other}"))) for other in ranks]
    store.set(f"compared{rank}", "yes")
    if rank == 0:  # the store may end with this process: the others must have read it before
        store.wait([f"compared{other}" for other in ranks], LONGEST_WAIT)
    for host, uuid in cards:
        sharing = [str(other) for other in ranks if cards[other] == (host, uuid)]
        if len(sharing) > 1:
            count = len({card for card in cards if card[0] == host})
            raise ConfigError(
                f"ranks {' and '.join(sharing)} share one GPU of {host}: start one process for each GPU; "
                f"--nproc_per_node={count}?"
            )


class MpiPlace(NamedTuple):
    """The place of this process among those that MPI started."""

    rank: int
    world_size: int
    local_rank: int  # among the processes on this machine
    local_size: int
    address: str  # at which to meet


def ask_mpi() -> MpiPlace:
    """Where this process is, by MPI. ConfigError: there is no mpi4py, or no MPI library."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py without an MPI library
        raise ConfigError(f"started by mpiexec, but MPI cannot be used ({error}): pip install mpi4py mpich") from error
    world = MPI.COMM_WORLD
    here = world.Split_type(MPI.COMM_TYPE_SHARED)
    host = "127.0.0.1" if here.size == world.size else socket.gethostname()
    with socket.socket() as listener:  # a port that is free on the first process's machine
        listener.bind(("", 0))
        address = world.bcast(f"tcp://{host}:{listener.getsockname()[1]}", root=0)
    return MpiPlace(world.rank, world.size, here.rank, here.size, address)


@contextmanager
def _sharded_traffic(parts: Iterable[Any], wanted: bool) -> Iterator[None]:
    for part in parts:
        part.set_requires_gradient_sync(wanted, recurse=False)
    yield


def gradient_traffic(module: nn.Module, wanted: bool) -> AbstractContextManager[None]:
    """A context that decides whether a backward pass shares the gradients of `module` among the processes.

    module  wrapped or sharded; of another one, there is nothing to share
    """
    if isinstance(module, torch.nn.parallel.DistributedDataParallel):
        return nullcontext() if wanted else module.no_sync()
    parts = [part for part in module.modules() if hasattr(part, "set_requires_gradient_sync")]
    return _sharded_traffic(parts, wanted)


def reshard_all(module: nn.Module) -> None:
    """Drop the whole weights that the parts of a sharded module hold; nothing to do for another one."""
    parts: list[Any] = [part for part in module.modules() if hasattr(part, "reshard")]
    for part in parts:
        part.reshard()


# -- tensors of sharded modules; of others, these give back what they are given ----------------------------------------


def full(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor of which this process may have a shard. Every process must call this."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def whole(state: Any, keep: bool = True) -> Any:
    """A nested state with every tensor whole and on the CPU, one after another.

    keep  whether this process needs them; False: it takes part in making them whole, and has None in their place
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
    """This process's shard, sharing its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def like(whole: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """A whole tensor, which every process has, with the device, the layout in memory and the shards of `reference`."""
    if hasattr(reference, "device_mesh") and hasattr(reference, "placements"):
        from torch.distributed.tensor import distribute_tensor

        mesh, placements = reference.device_mesh, reference.placements
        return distribute_tensor(whole.to(reference.device), mesh, placements, src_data_rank=None)
    return torch.empty_like(reference).copy_(whole)
