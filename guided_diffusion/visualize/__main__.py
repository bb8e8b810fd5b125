"""View runs and samples in Visdom.

Start a server on this machine (works offline), inspect finished samples, or replay a recording of --visdom_log:

    python -m guided_diffusion.visualize serve
    python -m guided_diffusion.visualize inspect --samples results/samples --data_dir data/testing
    python -m guided_diffusion.visualize replay results/windows.log

To watch training or sampling while it runs, pass --visdom to the command.
"""

import sys
from collections.abc import Callable, Sequence

from ..errors import ConfigError, DataError
from ..flags import command_line
from .connection import VisdomConfig
from .inspector import InspectConfig
from .server import ReplayConfig, ServeConfig, inspect, replay, serve


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the three commands."""
    with command_line.one_line_errors("guided_diffusion.visualize"):
        words = list(sys.argv[1:] if argv is None else argv)
        commands: dict[str, tuple[Callable[..., None], tuple[type, ...]]] = {
            "serve": (serve, (ServeConfig,)),
            "inspect": (inspect, (InspectConfig, VisdomConfig)),
            "replay": (replay, (ReplayConfig, VisdomConfig)),
        }
        if words[:1] in ([], ["--help"]):
            raise ConfigError(f"the first argument must be serve, inspect or replay\n{__doc__}")
        if words[0] not in commands:
            raise ConfigError(f"{words[0]} is unknown: use serve, inspect or replay")
        command = words.pop(0)
        if command == "replay" and words and not words[0].startswith("-"):
            words[0] = f"--file={words[0]}"
        run, classes = commands[command]
        configs = list(command_line.parse_command_line(classes, __doc__, words).replace(visdom=True))
        try:
            run(*configs)
        except ConnectionError as error:
            where = f"{configs[-1].visdom_server}:{configs[-1].visdom_port}"
            raise DataError(
                f"Visdom at {where}: {error}; start a server with python -m guided_diffusion.visualize serve"
            ) from error


if __name__ == "__main__":
    main()
