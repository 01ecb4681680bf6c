"""Objectives beyond the paper, one folder each.

A folder registers its criterion, and what else it has, with fairseq when it is
imported, as a user's own ``--user-dir`` does. Whatever folders are here are imported:
deleting one takes its objective away and nothing else.
"""

import importlib
import pkgutil

import fairseq  # noqa: F401  (its import registers this package, in order)

for _folder in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_folder.name}")
