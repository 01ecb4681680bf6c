"""Filter the settings of a checkpoint before fairseq uses them.

A checkpoint contains the configuration of its training run. fairseq evaluates some of
its strings as Python, resolves ``${...}`` and opens the paths that it names. So only
the settings that build the model and the task are passed on: names that these declare,
with values of the declared type. Everything else (folders, ports, logging) is dropped.
Invalid values are refused.
"""

import argparse
import copy
import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_scl.errors import InputError

# Names as registered with fairseq. A plug-in adds its own when it is imported:
# ``ALLOWED["criterion"].add("my_criterion")``. Other models and tasks are refused. In
# the rest, which fairseq-validate and from_pretrained build, other names are dropped.
ALLOWED = {
    "model": {"roberta", "roberta_bert", "transformer", "lstm"},
    "task": {
        *("sentence_prediction", "sentence_prediction_scl", "translation"),
        *("masked_lm", "multilingual_masked_lm"),
    },
    "criterion": {
        *("cross_entropy", "label_smoothed_cross_entropy", "masked_lm"),
        *("sentence_prediction", "sentence_prediction_scl"),
    },
    "bpe": {"gpt2", "fastbpe", "subword_nmt", "sentencepiece"},
    "tokenizer": {"moses", "nltk", "space"},
}
# Paths, splits and the scoring of translation models, which build nothing.
LEFT_OUT = re.compile(
    r"(^data|^eval_\w+|_path|_dir|_file|_json|_codes|_model|_pretrained|vocab_bpe"
    r"|_subset)$"
)
# Harmless strings: evaluating them cannot call anything.
WORDS = re.compile(r"[\w@,+-]{0,80}")
NUMBERS = re.compile(r"[\[(]?[\d.,eE+\- ]{0,400}[\])]?")
LARGEST = (
    (re.compile(r"layers$"), 0, 256),
    (re.compile(r"heads$"), 1, 1024),
    (re.compile(r"(_dim|hidden_size)$"), 1, 1 << 17),
    (re.compile(r"(positions|tokens_per_sample)$"), 1, 1 << 17),
    (re.compile(r"num_classes$"), -1, 1 << 17),
    (re.compile(r"base_(layers|sublayers)$"), 0, 1),
    (re.compile(r"(dropout|layerdrop|dropout_in|dropout_out|_prob)$"), 0, 1),
)
ANY_NUMBER = 1 << 53
# Far more settings than any real run has; a larger structure is not traversed.
VALUES = 100_000
# Models up to this many parameters (64 MB) are not compared with the weights.
SMALL = 1 << 24


def safe_settings(state: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """Return the configuration of a checkpoint with only the settings that are allowed.

    Args:
        state: the checkpoint; its settings are in ``cfg``, or in ``args`` for older
            versions of fairseq.
        path: the file, for messages. ``task.data`` is set to its folder.

    Returns:
        a configuration in the form of fairseq's ``cfg``: fairseq's defaults, with
        ``model``, ``task``, ``criterion``, ``bpe`` and ``tokenizer`` from the file.

    Raises:
        InputError: the architecture or task is not allowed, a setting has the wrong
            type or is out of range, there is a ``${``, or the model is much larger than
            the weights; the message names file and setting.
    """
    legacy = state.get("args") is not None
    given = _mapping(state["args"] if legacy else state["cfg"], "settings", path)
    _check_plain(given, path)
    flat = _from_arguments(given) if legacy else {}
    cfg = copy.deepcopy(_defaults())
    for section, allowed in ALLOWED.items():
        values = flat if legacy else _mapping(given.get(section) or {}, section, path)
        name = _name(values, section, legacy)
        known = isinstance(name, str) and name in allowed
        if section not in ("model", "task") and not known:
            # A section without a name tells from_pretrained not to add one.
            cfg[section] = {"_name": None} if values and not name else None
            continue
        cls, dataclass = _registered(section, name, path)
        kinds, defaults = _declared(cls, dataclass)
        kept = defaults | _kept(values, kinds, section, path)
        cfg[section] = kept | {"_name": name}
    model, task = cfg["model"], cfg["task"]
    model["arch"] = model["_name"]
    task["data"] = str(Path(path).parent)
    _check_size(model, task, state.get("model") or {}, path)
    cfg["model"] = argparse.Namespace(**model)
    if _registered("task", task["_name"], path)[1] is None:
        cfg["task"] = argparse.Namespace(**task, task=task["_name"])
    return cfg


def _refuse(path: str | Path, setting: str, value: Any, allowed: str) -> InputError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"
    return InputError(
        f"{path} was not loaded: its setting {setting} is {shown}, allowed: {allowed}"
    )


def _mapping(settings: Any, what: str, path: str | Path) -> dict[str, Any]:
    if isinstance(settings, argparse.Namespace):
        return vars(settings)
    if not isinstance(settings, dict):
        raise _refuse(path, what, settings, "a dictionary or an argparse.Namespace")
    return settings


def _check_plain(settings: Mapping[str, Any], path: str | Path) -> None:
    """Refuse ``${`` anywhere, because fairseq would resolve it."""
    seen: set[int] = set()
    rest: list[tuple[str, Any]] = [("", settings)]
    while rest:
        name, value = rest.pop()
        if isinstance(value, str):
            if "${" in value:
                raise _refuse(path, name, value, "text without ${")
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if not isinstance(value, dict | list | tuple | set):
            continue
        if len(seen) + len(rest) + len(value) > VALUES:
            raise InputError(f"{path} has more than {VALUES} settings")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            rest += [(name, key), (f"{name}.{key}".lstrip("."), item)]


def _from_arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Read flat settings from before fairseq 0.10.1 the way fairseq does."""
    flat = dict(args)
    flat.setdefault("task", "translation")
    if "max_positions" in flat:
        flat.setdefault("max_source_positions", flat["max_positions"])
        flat.setdefault("max_target_positions", flat["max_positions"])
    return flat


def _name(values: Mapping[str, Any], section: str, legacy: bool) -> Any:
    if legacy:
        return values.get("arch" if section == "model" else section)
    return values.get("_name") or values.get("arch" if section == "model" else "task")


def _registered(section: str, name: Any, path: str | Path) -> tuple[Any, Any]:
    """Return the class and dataclass (or ``None``) of the component in a section."""
    from fairseq.models import (
        ARCH_MODEL_NAME_REGISTRY,
        ARCH_MODEL_REGISTRY,
        MODEL_DATACLASS_REGISTRY,
    )
    from fairseq.registry import REGISTRIES
    from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

    if section == "model":
        family = ARCH_MODEL_NAME_REGISTRY.get(name) if isinstance(name, str) else None
        if family not in ALLOWED["model"]:
            known = ", ".join(sorted(ALLOWED["model"]))
            raise _refuse(path, "arch", name, f"an architecture of {known}")
        return ARCH_MODEL_REGISTRY[name], MODEL_DATACLASS_REGISTRY.get(name)
    if section == "task":
        if not isinstance(name, str) or name not in ALLOWED["task"]:
            raise _refuse(path, "task", name, ", ".join(sorted(ALLOWED["task"])))
        return TASK_REGISTRY[name], TASK_DATACLASS_REGISTRY.get(name)
    return None, REGISTRIES[section]["dataclass_registry"][name]


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return fairseq's own defaults, used for all sections not read from the file."""
    from fairseq.dataclass.configs import FairseqConfig
    from omegaconf import OmegaConf

    cfg: Any = OmegaConf.structured(FairseqConfig())
    defaults: Any = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    return dict(defaults)


@functools.cache
def _declared(cls: Any, dataclass: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings that a model, task or other part declares.

    Returns:
        the kind of each name (``bool``, ``int``, ``float``, a list of choices, or
        ``str`` for anything else), and default values for names that need one.
    """
    from fairseq.dataclass.utils import interpret_dc_type

    kinds: dict[str, Any] = {}
    if dataclass is not None:
        declared = dataclass()
        for field in dataclasses.fields(dataclass):
            kind = interpret_dc_type(declared._get_type(field.name))
            if isinstance(kind, type) and issubclass(kind, Enum):
                kind = [choice.value for choice in kind]
            kinds[field.name] = kind
        left_out = [name for name in kinds if LEFT_OUT.search(name)]
        defaults = {name: declared._get_default(name) for name in left_out}
        # The others refer to settings of fairseq, whose defaults are used.
        return kinds, {n: d for n, d in defaults.items() if "${" not in str(d)}
    parser = argparse.ArgumentParser(
        argument_default=argparse.SUPPRESS, add_help=False, allow_abbrev=False
    )
    cls.add_args(parser)
    defaults = {}
    for action in parser._actions:
        kind = action.choices or (bool if action.nargs == 0 else action.type)
        kinds[action.dest] = kind
        if action.default is not argparse.SUPPRESS:
            defaults[action.dest] = action.default
    # Models read these without declaring them.
    for side in ("", "source_", "target_"):
        kinds.setdefault(f"max_{side}positions", int)
    kinds.setdefault("tokens_per_sample", int)
    kinds.setdefault("criterion", str)
    return kinds, defaults


def _kept(
    values: Mapping[str, Any], kinds: Mapping[str, Any], section: str, path: str | Path
) -> dict[str, Any]:
    kept = {}
    for name, kind in kinds.items():
        if name not in values or name == "_name" or LEFT_OUT.search(name):
            continue
        value = values[name]
        problem = _problem(name, value, kind)
        if problem:
            raise _refuse(path, f"{section}.{name}", value, problem)
        kept[name] = value
    return kept


def _problem(name: str, value: Any, kind: Any) -> str | None:
    """Return what is allowed if the value is invalid, otherwise ``None``."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is None:
        return None
    if isinstance(kind, list | tuple):
        return None if value in kind else f"one of {', '.join(map(str, kind))}"
    if kind is bool:
        return None if str(value) in ("True", "False", "0", "1") else "true or false"
    if kind is int and not (number and float(value).is_integer()):
        return "a whole number"
    if kind is float and not number:
        return "a number"
    if number:
        return _out_of_range(name, value)
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and (WORDS.fullmatch(value) or NUMBERS.fullmatch(value)):
        return None
    if isinstance(value, list | tuple) and len(value) <= 1000:
        simple = (type(one) in (int, float) and abs(one) < ANY_NUMBER for one in value)
        if all(simple):
            return None
    return "a plain word, a number or a list of numbers"


def _out_of_range(name: str, value: float) -> str | None:
    for names, least, most in LARGEST:
        if names.search(name):
            if least <= value <= most:
                return None
            return f"from {least} to {most}"
    fits = math.isfinite(value) and abs(value) <= ANY_NUMBER
    return None if fits else f"a number between -{ANY_NUMBER} and {ANY_NUMBER}"


def _check_size(
    model: Mapping[str, Any],
    task: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    path: str | Path,
) -> None:
    """Refuse settings whose model is much larger than the weights, before building it.

    fairseq allocates the model that the settings describe before it compares its
    weights with those in the file.
    """
    from fairseq.models import ARCH_CONFIG_REGISTRY

    widest = max((max(w.shape, default=0) for w in weights.values()), default=0)
    for name, value in model.items():
        wide = isinstance(value, int) and value > max(widest, 1)
        if wide and re.search(r"(_dim|hidden_size)$", name):
            raise _refuse(
                path, f"model.{name}", value, f"up to {widest}, the widest weight"
            )
    sizes = r"(layers|_dim|hidden_size|positions|num_classes)$"
    if not any(re.search(sizes, name) for name in [*model, *task]):
        return
    full = argparse.Namespace(**model)
    try:
        ARCH_CONFIG_REGISTRY[model["_name"]](full)
        claimed = _parameters({**task, **vars(full)})
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} was not loaded: its settings do not describe a "
            f"{model['_name']} ({error})"
        ) from error
    held = sum(weight.numel() for weight in weights.values())
    if claimed > 2 * held + SMALL:
        raise InputError(
            f"{path} was not loaded: its settings describe a model of about "
            f"{claimed:,} parameters, but the file holds {held:,}"
        )


def _parameters(settings: Mapping[str, Any]) -> int:
    """Return a lower bound of a model's size from layers, positions and classes."""
    total = 0
    for side, other in (("encoder", "source"), ("decoder", "target")):
        width = int(settings.get(f"{side}_embed_dim") or 0)
        hidden = int(settings.get(f"{side}_hidden_size") or 0)
        inner = int(settings.get(f"{side}_ffn_embed_dim") or 0)
        layers = int(settings.get(f"{side}_layers") or 0)
        total += layers * (4 * width * (hidden or width) + 2 * width * inner)
        total += layers * 4 * hidden * hidden
        rows = ("max_positions", f"max_{other}_positions", "num_classes")
        if not hidden:  # an LSTM has no position embeddings
            total += sum(width * max(int(settings.get(n) or 0), 0) for n in rows)
    return total
