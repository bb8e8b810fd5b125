"""Pack a folder of cases into one memory-mapped file per split, which loads instantly and replaces the folder.

    python scripts/pack_data.py --data_dir data/lidc --out data/lidc-packed

--help lists the flags.
"""

from guided_diffusion.commands.pack_data import main

if __name__ == "__main__":
    main()
