"""Read the pooling of a sentence encoder from its sentence-transformers files."""

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from fairseq_scl.errors import InputError
from fairseq_scl.typed import read_as

Pooling = Literal["cls", "mean"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
MODULES = "modules.json"
SETTINGS = "config.json"
# From the settings of sentence-transformers.
MODES: dict[str, Pooling] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
}
PREFIX = "pooling_mode_"


class _Module(msgspec.Struct):
    """An entry of ``modules.json``."""

    path: str
    type: str


def read_pooling(folder: Path) -> Pooling:
    """Return the pooling of an encoder: the state at ``<s>`` or the mean over tokens.

    Hugging Face folders of sentence-transformers have ``modules.json`` or
    ``1_Pooling/config.json``. Others do not define it and get ``cls``.

    Raises:
        InputError: a file is damaged, or defines another pooling.
    """
    path = folder / "1_Pooling" / SETTINGS
    if (folder / MODULES).is_file():
        modules = read_as(folder / MODULES, list[_Module])
        found = [one.path for one in modules if one.type.endswith("Pooling")]
        if not found:
            return "cls"
        path = folder / found[0] / SETTINGS
    if not path.is_file():
        return "cls"
    settings = read_as(path, dict[str, Any])
    name = settings.get("pooling_mode")  # newer files have a single name
    modes = [key for key, on in settings.items() if key.startswith(PREFIX) and on]
    if isinstance(name, str):
        modes = [f"{PREFIX}{name}{'_tokens' if name == 'mean' else '_token'}"]
    if len(modes) == 1 and modes[0] in MODES:
        return MODES[modes[0]]
    raise InputError(
        f"{path} defines {' and '.join(modes) or 'no pooling'}; allowed: "
        f"{' or '.join(MODES)}, or choose with --pooling"
    )
