"""Changes to fairseq itself: each file names its faults and has ``apply``."""

import importlib
import pkgutil


def patch_fairseq() -> None:
    """Apply the patches of every file in this folder; a second call changes nothing."""
    for file in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{file.name}").apply()
