"""Make synthetic cases (phantoms) whose raters follow a known distribution.

    python scripts/make_phantom.py --out data/phantom --num_cases 200 --seed 1

--help lists the flags.
"""

from guided_diffusion.commands.make_phantom import main

if __name__ == "__main__":
    main()
