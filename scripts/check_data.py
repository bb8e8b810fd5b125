"""Look for faults in a folder of cases, and report what is in it.

    python scripts/check_data.py data/training

--help lists the flags.
"""

from guided_diffusion.commands.check_data import main

if __name__ == "__main__":
    main()
