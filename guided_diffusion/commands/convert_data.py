"""Convert a published data set into a folder of cases for training.

    python scripts/convert_data.py FORMAT --src SOURCE --out data/NAME

FORMAT is lidc-pickle, lidc-hdf5, lidc-crops, qubiq, brats, ms-mri or folders; docs/data.md describes them. `folders`
takes folders of pictures in many layouts, and any other with --images PATTERN --masks PATTERN.
Broken cases are reported and skipped; the exit status is then 1.
"""

import sys
from collections.abc import Sequence

from ..errors import ConfigError
from ..flags import command_line
from ..prepare.formats.converters import FORMATS, ConvertConfig, convert


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        words = list(sys.argv[1:] if argv is None else argv)
        name = words.pop(0) if words and not words[0].startswith("-") else ""
        if not name and not {"-h", "--help"} & set(words):
            raise ConfigError(f"the first argument must be the format: one of {', '.join(FORMATS)}")
        config = command_line.parse_command_line((ConvertConfig,), __doc__, words)[ConvertConfig]
        _, faults = convert(name, config)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
