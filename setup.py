"""The distribution: its dependencies, extras and console commands."""

import pathlib
import re

from setuptools import find_packages, setup

VISDOM = ["visdom>=0.2.4", "tornado<6.6"]  # tornado 6.6 answers 403 for Visdom's page
MEDICAL = ["nibabel>=5.4", "pydicom>=3.0", "h5py>=3.16", "defusedxml>=0.7", "imagecodecs>=2025.3", "tifffile>=2025.3"]
SHARE = ["huggingface_hub>=2.4"]
COMMANDS = (
    "train",
    "sample",
    "evaluate",
    "export",
    "compare",
    "check-data",
    "convert-data",
    "info",
    "make-phantom",
    "pack-data",
    "prepare-lidc",
)
# The package is not imported: what it needs may not be installed yet
PACKAGE = pathlib.Path(__file__).parent / "guided_diffusion" / "__init__.py"
(VERSION,) = re.findall(r'^__version__ = "(.+)"', PACKAGE.read_text(encoding="utf-8"), re.MULTILINE)

setup(
    name="ambiguous-segmentation-diffusion",
    version=VERSION,
    description="Ambiguous medical image segmentation with diffusion models: many plausible masks for one image",
    packages=find_packages(include=["guided_diffusion", "guided_diffusion.*"]),
    package_data={
        "guided_diffusion.evaluation": ["*.html"],
        "guided_diffusion.compare": ["*.html"],
        "guided_diffusion.commands.model_card": ["*.jinja"],
        "guided_diffusion.models": ["*/*.safetensors", "*/*.json", "*/*.md", "*/*.png"],
    },
    entry_points={
        "console_scripts": [
            f"cimd-{name} = guided_diffusion.commands.{name.replace('-', '_')}:main" for name in COMMANDS
        ]
    },
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.13",
        "numpy>=2.0",
        "pillow>=12",
        "scipy>=1.15",
        "blobfile>=3",
        "tqdm>=4.66",
        "jaxtyping>=0.3.11",
        "filelock>=3.13",
        "jinja2>=3.1",
        "safetensors>=0.8",
    ],
    extras_require={
        "visdom": VISDOM,
        "mpi": ["mpi4py>=4.1", "mpich>=5"],
        "medical": MEDICAL,
        "report": ["matplotlib>=3.7"],
        "tensorboard": ["tensorboard>=2.21"],
        "share": SHARE,
        "bench": ["diffusers>=0.42", "monai"],
        "test": [
            "setuptools>=68",
            "pytest>=9",
            "pytest-xdist>=3.8",
            "beartype>=0.23",
            *MEDICAL,
            *SHARE,
            "diffusers>=0.42",
            "hypothesis>=6.170",
            "SimpleITK>=2.5",
            "playwright>=1.65",
            "tensorboard>=2.21",
            "nbclient>=0.10",
            "ipykernel>=6.29",
        ],
        "dev": ["ruff>=0.17", "import-linter>=2.17", "mypy>=2.4"],
    },
    license="MIT",
)
