"""Faster configurations of command lines: from those of earlier ones.

Hydra takes longer to compose a configuration than a toy model takes to train. Command
lines that choose the same classes differ in values alone, so the first configuration is
copied, and Hydra sets the values that differ. Forks inherit what their parent composed;
processes that a test starts in another way compose without this module.
"""

import contextlib
import copy
import functools
from pathlib import Path
from typing import Any

import fairseq
from fairseq.dataclass import utils
from hydra import initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser

_parser = OverridesParser.create()
_parsed = functools.cache(functools.partial(OverridesParser.parse_rule, _parser))
compose_with_hydra = utils.compose
_composed: dict[tuple[str, ...], tuple[list[str], Any]] = {}


def compose(name: str, overrides: list[str], strict: bool) -> Any:
    """Return what Hydra's ``compose`` returns.

    Overrides are choices of a class (``criterion=NAME``) or values (``common.seed=1``).
    """
    key = tuple(o.partition("=")[0] if "." in o else o for o in overrides)
    if key not in _composed:
        with initialize_config_dir(str(Path(fairseq.__file__).parent / "config")):
            made = compose_with_hydra(name, overrides, strict=strict)
        _composed[key] = overrides, made
    earlier, cfg = _composed[key]
    cfg = copy.deepcopy(cfg)
    pairs = zip(overrides, earlier, strict=True)
    changed = _parser.parse_overrides([new for new, old in pairs if new != old])
    ConfigLoaderImpl._apply_overrides_to_config(changed, cfg)
    return cfg


def replace_hydra() -> None:
    """Have fairseq compose configurations of command lines in this way."""
    utils.compose = compose
    utils.initialize = lambda config_path: contextlib.nullcontext()
    # Hydra copies this singleton, with every registered dataclass, for each command
    # line, and parses hundreds of overrides, most of which are the same for all.
    ConfigStore.__deepcopy__ = lambda store, memo: store
    OverridesParser.parse_rule = lambda parser, *rule: copy.copy(_parsed(*rule))
