"""Train on a folder of cases.

    python scripts/segmentation_train.py --preset demo --data_dir data/training

--help lists the flags.
"""

from guided_diffusion.commands.train import main

if __name__ == "__main__":
    main()
