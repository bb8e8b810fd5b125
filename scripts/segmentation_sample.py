r"""Sample an ensemble of masks for each case in a folder.

    python scripts/segmentation_sample.py --data_dir data/testing --model_path results/savedmodel.pt \
        --num_ensemble 4 --fast

--help lists the flags.
"""

from guided_diffusion.commands.sample import main

if __name__ == "__main__":
    main()
