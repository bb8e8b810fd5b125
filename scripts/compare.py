r"""Compare methods on the same cases with equal training effort.

    python scripts/compare.py --data_dir data/training --test_dir data/testing \
        --methods cimd-small,ssn --budget_minutes 10

--help lists the flags.
"""

from guided_diffusion.commands.compare import main

if __name__ == "__main__":
    main()
