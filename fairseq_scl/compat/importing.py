"""Importing fairseq without what our commands do not use."""

import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any
from unittest import mock

# fairseq imports them for --report-mcc and an audio task: a quarter of its start-up.
METRICS = ("scipy.stats", "sklearn.metrics")


class _Postponed(ModuleType):
    """A module whose functions import the real one when they are called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            function = getattr(importlib.import_module(self.__name__), name)
            return function(*args, **kwargs)

        return call


@contextmanager
def importing_fairseq() -> Iterator[None]:
    """Import fairseq here: quietly, faster, and without asking CUDA.

    Some of its modules turn on the debug messages of every package and recommend
    packages that nothing here uses. It counts GPUs for defaults that nothing here uses
    either; where NVML is missing, that alone bars the forks of this process from CUDA.
    """
    import torch

    postponed: dict[str, ModuleType] = {}
    if not any(name.partition(".")[0] in sys.modules for name in METRICS):
        for name in METRICS:
            package, _, submodule = name.partition(".")
            postponed[package], postponed[name] = ModuleType(package), _Postponed(name)
            setattr(postponed[package], submodule, postponed[name])
    sys.modules.update(postponed)
    disabled = logging.root.manager.disable
    logging.disable(logging.INFO)
    try:
        with (
            warnings.catch_warnings(),
            mock.patch.object(logging, "basicConfig"),
            mock.patch.object(torch.cuda, "device_count", return_value=1),
        ):
            # fairseq scripts functions that nothing here calls.
            warnings.filterwarnings("ignore", "`torch.jit.script`", FutureWarning)
            yield
    finally:
        logging.disable(disabled)
        for name in postponed:
            del sys.modules[name]
