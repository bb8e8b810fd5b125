"""Convert the LIDC-IDRI download (CT series in DICOM, the readers' XML) into a folder of cases for training.

    python scripts/prepare_lidc.py --dicom LIDC-IDRI --xml tcia-lidc-xml --out data/lidc

Rerun the command to resume. Broken files, series and cases are reported and skipped; the exit status is then 1.
docs/data.md describes the download.
"""

import sys
from collections.abc import Sequence

from ..flags import command_line
from ..prepare.lidc.config import PrepareConfig
from ..prepare.lidc.download import prepare


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with command_line.one_line_errors():
        _, faults = prepare(command_line.parse_command_line((PrepareConfig,), __doc__, argv)[PrepareConfig])
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
