"""Check a folder of cases for faults, and report statistics of its contents.

    python scripts/check_data.py data/training

Reports every fault with its file and the remedy. The exit status is 1 if there are any.
"""

import sys
from collections.abc import Sequence

from ..data.config import DataConfig
from ..errors import ConfigError
from ..flags import command_line
from ..prepare.check import CheckConfig, check_data


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        words = command_line.name_first_word(argv, "data_dir")
        flags = command_line.parse_command_line((CheckConfig, DataConfig), __doc__, words)
        if not flags[CheckConfig].data_dir:
            raise ConfigError("the folder to check is missing: python scripts/check_data.py data/training")
        sys.exit(1 if check_data(flags[CheckConfig], flags[DataConfig]) else 0)


if __name__ == "__main__":
    main()
