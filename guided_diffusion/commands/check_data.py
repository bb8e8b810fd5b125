"""Look for faults in a folder of cases, and tell what is in it:

    python scripts/check_data.py data/training

Names every fault with its file and the remedy, and ends with status 1 if there are any.
"""

import sys

from ..data.case_reader import DataConfig
from ..errors import ConfigError
from ..flags import command_line
from ..flags.fields import configs_from_flags
from ..prepare.check import CheckConfig, check_data
from ..system.storage import refuse_remote


def main(argv=None):
    with command_line.one_line_errors():
        words = list(sys.argv[1:] if argv is None else argv)
        if words and not words[0].startswith("-"):
            words[0] = f"--data_dir={words[0]}"
        given, _ = command_line.parse_command_line((CheckConfig, DataConfig), __doc__, words)
        config, data_config = configs_from_flags(given, CheckConfig, DataConfig)
        if not config.data_dir:
            raise ConfigError("the folder comes first: python scripts/check_data.py data/training")
        refuse_remote("sheet", config.sheet)
        sys.exit(1 if check_data(config, data_config) else 0)


if __name__ == "__main__":
    main()
