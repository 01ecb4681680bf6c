"""Fixes that fairseq and Hydra need on Python 3.14 before they are imported.

``fairseq_scl_startup.pth`` beside this file imports it whenever Python 3.14 or later
starts, so that plain ``fairseq-train`` works, too. It waits for two modules and changes
one function of each right after it has been loaded, nothing else; the environment
variable ``FAIRSEQ_SCL_STARTUP=0`` turns it off. An installation copies both files into
``site-packages``. Every start of Python pays for what is imported here: only ``sys``.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def _accept_optional_types(utils: Any) -> None:
    """Fault of fairseq: it parses ``str(Optional[int])``, now ``int | None``."""
    original = utils.interpret_dc_type

    def interpret_dc_type(field_type: Any) -> Any:
        is_union = isinstance(field_type, type(int | None))
        if is_union and field_type.__args__[-1] is type(None):
            return field_type.__args__[0]
        return original(field_type)

    utils.interpret_dc_type = interpret_dc_type


def _accept_lazy_help(utils: Any) -> None:
    """Fault of Hydra 1.3: a help text is an object, and argparse now checks texts."""
    original, parser = utils.get_args_parser, utils.argparse.ArgumentParser

    def get_args_parser() -> Any:
        check = parser._check_help
        parser._check_help = lambda self, action: None
        try:
            return original()
        finally:
            parser._check_help = check

    utils.get_args_parser = get_args_parser


PATCHES = {
    "fairseq.dataclass.utils": _accept_optional_types,
    "hydra._internal.utils": _accept_lazy_help,
}


class PatchAfterLoading:
    """Finds the modules as Python does and has their loading followed by the patch."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """Return the module's spec, or ``None`` for modules without a patch."""
        if name not in PATCHES:
            return None
        others = (finder for finder in sys.meta_path if finder is not cls)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next(filter(None, specs), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                PATCHES[name](module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, PatchAfterLoading)
