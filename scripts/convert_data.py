"""Convert a published data set to cases for training.

    python scripts/convert_data.py FORMAT --src SOURCE --out data/NAME

--help lists the flags.
"""

from guided_diffusion.commands.convert_data import main

if __name__ == "__main__":
    main()
