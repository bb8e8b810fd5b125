"""Write a model folder from a checkpoint: weights, settings, model card and picture, to share or to upload.

    python scripts/export.py --model_path results/mine/bestmodel.pt --out results/mymodel --license CC-BY-4.0

--help lists the flags.
"""

from guided_diffusion.commands.export import main

if __name__ == "__main__":
    main()
