"""Score the samples of each case against its raters.

    python scripts/segmentation_evaluate.py --data_dir data/testing --samples results/samples

--help lists the flags.
"""

from guided_diffusion.commands.evaluate import main

if __name__ == "__main__":
    main()
