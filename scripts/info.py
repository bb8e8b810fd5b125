"""Print what made a checkpoint, a file of samples, a packed file or a folder of cases.

    python scripts/info.py results/demo/savedmodel.pt

--help lists the flags.
"""

from guided_diffusion.commands.info import main

if __name__ == "__main__":
    main()
