from setuptools import find_packages, setup

VISDOM = ["visdom>=0.2.4", "tornado<6.6"]  # tornado 6.6 answers 403 for Visdom's page
MEDICAL = ["nibabel>=5", "pydicom>=2.4", "h5py>=3.9", "defusedxml>=0.7"]

setup(
    name="ambiguous-segmentation-diffusion",
    version="0.2.0",
    description="Ambiguous medical image segmentation with diffusion models: many plausible masks for one image",
    packages=find_packages(include=["guided_diffusion", "guided_diffusion.*"]),
    package_data={"guided_diffusion.evaluation": ["*.html"]},
    python_requires=">=3.10",
    install_requires=["torch>=2.7", "numpy>=1.24", "pillow>=10", "scipy>=1.15", "blobfile>=3", "tqdm>=4.65"],
    extras_require={
        "visdom": VISDOM,
        "mpi": ["mpi4py>=4", "mpich"],
        "medical": MEDICAL,
        "report": ["matplotlib>=3.7"],
        "tensorboard": ["tensorboard>=2.14"],
        "bench": ["diffusers", "monai"],
        "test": [
            "pytest>=8", "pytest-xdist>=3.6", "filelock>=3.13", *MEDICAL, "diffusers>=0.30", "hypothesis>=6", "SimpleITK>=2.3",
            "playwright>=1.40", "tensorboard>=2.14",
        ],  # fmt: skip
    },
    license="MIT",
)
