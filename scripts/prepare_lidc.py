"""Convert the LIDC-IDRI download (CT series in DICOM, the readers' XML) to cases for training.

    python scripts/prepare_lidc.py --dicom LIDC-IDRI --xml tcia-lidc-xml --out data/lidc

--help lists the flags.
"""

from guided_diffusion.commands.prepare_lidc import main

if __name__ == "__main__":
    main()
