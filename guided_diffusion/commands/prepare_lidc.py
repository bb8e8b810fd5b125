"""Turn the LIDC-IDRI download (CT series in DICOM, the readers' XML) into cases to train on:

    python scripts/prepare_lidc.py --dicom LIDC-IDRI --xml tcia-lidc-xml --out data/lidc

Run again, it goes on where it was. Status 1: some series or cases had faults, which are told; the others are written.
docs/data.md says where the download comes from.
"""

import sys

from ..flags import command_line
from ..flags.fields import configs_from_flags
from ..prepare.lidc.download import PrepareConfig, prepare


def main(argv=None):
    with command_line.one_line_errors():
        given, _ = command_line.parse_command_line((PrepareConfig,), __doc__, argv)
        (config,) = configs_from_flags(given, PrepareConfig)
        _, faults = prepare(config)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
