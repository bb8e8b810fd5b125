"""
Turn the LIDC-IDRI download (CT series in DICOM, the readers' XML) into cases to train on:

    python scripts/prepare_lidc.py --dicom LIDC-IDRI --xml tcia-lidc-xml --out data/lidc

Run again, it goes on where it was. docs/data.md says where the download comes from.
"""

from guided_diffusion import script_util
from guided_diffusion.prepare import PrepareConfig, prepare


def main(argv=None):
    with script_util.one_line_errors("prepare_lidc.py"):
        given, _ = script_util.parse_command_line((PrepareConfig,), __doc__, argv)
        (config,) = script_util.configs_from_flags(given, PrepareConfig)
        prepare(config)


if __name__ == "__main__":
    main()
