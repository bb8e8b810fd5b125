"""Two processes of one gloo group in place of a launch of torchrun, forked from a server that has imported torch.

Each run is given a fresh pair, so that nothing of one run is left for the next. As under torchrun, the processes are
clients of a store that outlives them, and a run has its own prefix in it.
"""

import contextlib
import faulthandler
import itertools
import multiprocessing
import os
import subprocess

import torch.distributed as dist
from helpers import load_script

RANKS = 2
PATIENCE = 120  # seconds until a pair is taken to wait for each other; where, they write to their output
PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "scipy.ndimage",
    "scipy.optimize",
    "helpers",
    "guided_diffusion.commands.train",
    "guided_diffusion.train_util",
    "guided_diffusion.training.validation",
    "guided_diffusion.visualize.windows",
]


class Ranks:
    """The server of forked pairs; torch is imported as the first pair is started."""

    def __init__(self):
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.store = dist.TCPStore(
            "127.0.0.1", 0, is_master=True, wait_for_workers=False
        )  # 0: a free port, which it holds
        self.runs = itertools.count()

    @contextlib.contextmanager
    def start(self, folder, function, *arguments):
        """A pair of processes that each run function(*arguments), by name; killed where the block ends before they do.

        folder  where their output goes, as rank0.out, rank0.err, ...
        """
        run, processes = next(self.runs), []
        for rank in range(RANKS):
            environ = {
                **os.environ,
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": RANKS,
                "LOCAL_WORLD_SIZE": RANKS,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": self.store.port,
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": run,
            }
            environ = {name: str(value) for name, value in environ.items()}
            processes.append(
                self.context.Process(target=_work, args=(environ, str(folder / f"rank{rank}"), function, arguments))
            )
        try:
            for process in processes:
                process.start()
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.join()

    def run(self, folder, function, *arguments):
        """function(*arguments) in both processes, to its end; returns a completed process, with the text of both."""
        with self.start(folder, function, *arguments) as processes:
            return finish(processes, folder)

    def run_script(self, folder, name, *arguments):
        """The main() of scripts/NAME.py in both processes."""
        return self.run(folder, script_main, name, *map(str, arguments))


def finish(processes, folder):
    """Wait until both have ended; a completed process as of one program that started both."""
    for process in processes:
        process.join(PATIENCE + 10)
    text = [
        "".join((folder / f"rank{rank}.{stream}").read_text() for rank in range(RANKS)) for stream in ("out", "err")
    ]
    assert all(process.exitcode is not None for process in processes), f"the processes wait for each other: {text}"
    status = next((process.exitcode for process in processes if process.exitcode), 0)
    return subprocess.CompletedProcess("two ranks", status, *text)


def script_main(name, *arguments):
    load_script(name).main(list(arguments))


def _work(environ, output, function, arguments):
    """What each process does, its standard streams in files."""
    faulthandler.dump_traceback_later(PATIENCE)
    os.environ.clear()
    os.environ.update(environ)
    for stream, number in (("out", 1), ("err", 2)):
        file = os.open(f"{output}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    function(*arguments)
