"""Which versions fit together, and what ``fairseq-scl doctor`` prints."""

import importlib
import importlib.metadata
import platform
import re
import sys
from collections.abc import Callable

# The build of the fork needs the PyTorch that is installed, in isolation it fetches a
# second one; that of 0.12.2 fails where it sees PyTorch, as its archive lacks sources.
INSTALL_FROM_311 = "pip install --no-build-isolation fairseq-fixed==0.12.3.1"
INSTALL_BEFORE_311 = "pip install 'pip<24.1', then pip install fairseq==0.12.2"


def installed_version(distribution: str) -> str | None:
    """Return the version of an installed distribution, ``None`` if it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def problems(
    python: tuple[int, int] = sys.version_info[:2],
    version_of: Callable[[str], str | None] = installed_version,
) -> list[str]:
    """Say what keeps fairseq from working here, judging by versions alone.

    Args:
        python: major and minor version of the interpreter.
        version_of: returns the installed version of a distribution or ``None``.

    Returns:
        one sentence a problem, each with its remedy; empty when all fits.
    """
    found = []
    stock, fixed = version_of("fairseq"), version_of("fairseq-fixed")
    install = INSTALL_FROM_311 if python >= (3, 11) else INSTALL_BEFORE_311
    if not (3, 10) <= python < (3, 13):
        found.append(
            f"Python {python[0]}.{python[1]} does not run fairseq: use Python 3.10, "
            "3.11 or 3.12"
        )
    if stock is None and fixed is None:
        found.append(f"fairseq is not installed: {install}")
    elif stock is not None and fixed is not None:
        found.append(
            f"fairseq {stock} and fairseq-fixed {fixed} are both installed and "
            f"overwrite each other: pip uninstall fairseq fairseq-fixed, then {install}"
        )
    elif fixed is None and stock == "0.12.2" and python >= (3, 11):
        found.append(
            f"fairseq {stock} does not import on Python {python[0]}.{python[1]} "
            f"(mutable dataclass defaults): pip uninstall fairseq, then {install}"
        )
    torch_version = version_of("torch")
    if torch_version is None:
        found.append("PyTorch is not installed: pip install torch")
    elif tuple(map(int, re.findall(r"\d+", torch_version)[:2])) < (2, 6):
        found.append(
            f"PyTorch {torch_version} cannot load fairseq's checkpoints safely: "
            "pip install 'torch>=2.6'"
        )
    return found


def import_problems() -> list[str]:
    """Import fairseq and say what it raised; empty when it works."""
    try:
        importlib.import_module("fairseq")
    except Exception as error:  # whatever it is, it is what the user needs to know
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return [
            f"fairseq is installed but does not import ({reason}): install the "
            "versions of constraints.txt"
        ]
    return []


def doctor_report() -> tuple[list[tuple[str, str]], list[str]]:
    """Collect versions and everything that is wrong with this installation.

    Returns:
        pairs of a name and its version, and one sentence a problem (with remedy).
    """
    import torch

    names = ("torch", "numpy", "fairseq", "fairseq-fixed", "hydra-core", "omegaconf")
    more = ("tokenizers", "safetensors", "scikit-learn", "scipy", "matplotlib")
    versions = [("python", platform.python_version())]
    versions += [(n, installed_version(n) or "not installed") for n in names + more]
    versions.append(("cuda", torch.version.cuda or "not in this PyTorch build"))
    versions.append(("gpus", str(torch.cuda.device_count())))
    found = problems() or import_problems()
    missing = [n for n in more if installed_version(n) is None]
    if missing:
        found.append(f"{', '.join(missing)} missing: pip install {' '.join(missing)}")
    return versions, found
