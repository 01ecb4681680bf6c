"""Objectives beyond the paper, one folder each.

Importing a folder registers its criterion and model parts with fairseq, in the same way
as a user's own ``--user-dir``. Every folder found here is imported, so deleting one
removes its objective and nothing else.
"""

import importlib
import pkgutil

import fairseq  # noqa: F401  (its import registers this package, in order)

for _folder in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_folder.name}")
