"""Check a folder of cases for errors and summarise its contents.

    python scripts/check_data.py data/training

--help lists the flags.
"""

from guided_diffusion.commands.check_data import main

if __name__ == "__main__":
    main()
