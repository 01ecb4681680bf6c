"""Check which versions work together, for ``fairseq-scl doctor``."""

import importlib
import importlib.metadata
import platform
import re
import sys

# An isolated build would download a second PyTorch and build with that. With CUDA_HOME
# set, the build asks for sources that fairseq's archive lacks.
INSTALL = (
    "pip install torch numpy cython setuptools wheel, then env -u CUDA_HOME pip "
    "install --no-build-isolation fairseq-fixed==0.12.3.1"
)

# The module of compat/startup, which an installation puts into site-packages.
STARTUP = "fairseq_scl_startup"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, or ``None``."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def problems() -> list[str]:
    """List the version problems that keep fairseq from working.

    Returns:
        one sentence per problem, with its remedy; empty if there are none.
    """
    found, python = [], sys.version_info[:2]
    stock, fixed = installed_version("fairseq"), installed_version("fairseq-fixed")
    if not (3, 11) <= python < (3, 15):
        found.append(
            f"fairseq-scl does not run on Python {python[0]}.{python[1]}: use Python "
            "3.11 to 3.14"
        )
    elif python >= (3, 14) and STARTUP not in sys.modules:
        found.append(
            f"{STARTUP}.pth, which fairseq needs on Python 3.14, was not run: install "
            "fairseq-scl with pip into a virtual environment, and unset "
            "FAIRSEQ_SCL_STARTUP"
        )
    if stock is None and fixed is None:
        found.append(f"fairseq is not installed: {INSTALL}")
    elif stock is not None and fixed is not None:
        found.append(
            f"fairseq {stock} and fairseq-fixed {fixed} are both installed and "
            f"overwrite each other: pip uninstall fairseq fairseq-fixed, {INSTALL}"
        )
    elif fixed is None and stock == "0.12.2":
        found.append(
            f"fairseq {stock} cannot be imported on Python 3.11 and later "
            f"(mutable dataclass defaults): pip uninstall fairseq, {INSTALL}"
        )
    torch_version = installed_version("torch")
    if torch_version is None:
        found.append("PyTorch is not installed: pip install torch")
    elif tuple(map(int, re.findall(r"\d+", torch_version)[:2])) < (2, 6):
        found.append(
            f"PyTorch {torch_version} cannot load fairseq's checkpoints safely: "
            "pip install 'torch>=2.6'"
        )
    return found


def import_problems() -> list[str]:
    """Import fairseq and return its error as a problem; empty if it works."""
    try:
        importlib.import_module("fairseq")
    except Exception as error:  # the user needs to know any error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [
            f"fairseq is installed but cannot be imported ({reason}): install the "
            "versions in constraints.txt"
        ]
    return []


def doctor_report(
    versions_only: bool = False,
) -> tuple[list[tuple[str, str]], list[str]]:
    """Collect versions and all problems of this installation.

    Args:
        versions_only: read the versions of the installed packages without importing
            them; GPUs are not counted then.

    Returns:
        pairs of name and version, and one sentence per problem with its remedy.
    """
    names = ("torch", "numpy", "fairseq", "fairseq-fixed", "hydra-core", "omegaconf")
    more = ("tokenizers", "safetensors", "scikit-learn", "scipy", "matplotlib")
    versions = [("python", platform.python_version())]
    versions += [(n, installed_version(n) or "not installed") for n in names + more]
    found = problems()
    if not versions_only and installed_version("torch") is not None:
        import torch

        versions.append(("cuda", torch.version.cuda or "not in this PyTorch build"))
        versions.append(("gpus", str(torch.cuda.device_count())))
        found = found or import_problems()
    missing = [n for n in more if installed_version(n) is None]
    if missing:
        found.append(f"{', '.join(missing)} missing: pip install {' '.join(missing)}")
    return versions, found
