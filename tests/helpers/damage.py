"""Functions that edit JSON files, or damage a file's bytes with a random generator."""

import io
import itertools
import json
import os
import pickle
import re
import tempfile

import safetensors.torch
import torch

MARKER = f"{tempfile.gettempdir()}/fuzz-marker-{os.getpid()}"
CODE = f"__import__('os').system('touch {MARKER}')"
MISSING = object()
VALUES = (None, True, -1, 10**30, 1e308, float("nan"), "x", "../x", "", [], [[1]], {})


def edit(path, place, value):
    """Set, or delete, what is at a place such as ``examples.train`` of a JSON file."""
    *keys, last = place.split(".")
    found = content = json.loads(path.read_text("utf-8"))
    for key in keys:
        found = found[int(key) if isinstance(found, list) else key]
    if value is MISSING:
        del found[last]
    else:
        found[int(last) if isinstance(found, list) else last] = value
    path.write_text(json.dumps(content), "utf-8")


def flip(data, draw):
    """Change 1 to 8 bytes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(data, draw):
    """Truncate the file."""
    return data[: draw.randrange(len(data))]


def empty(data, draw):
    """Empty the file."""
    return b""


def noise(data, draw):
    """Replace the content with random bytes."""
    return draw.randbytes(min(len(data), 5000))


def doubled(data, draw):
    """Write the content twice."""
    return data * 2


def not_utf_8(data, draw):
    """Insert a byte that is invalid in UTF-8."""
    at = draw.randrange(len(data))
    return data[:at] + b"\xff" + data[at:]


def nul(data, draw):
    """Insert NUL bytes."""
    at = draw.randrange(len(data))
    return data[:at] + b"\0" * 9 + data[at:]


def line(data, draw):
    """Repeat, drop, blank, extend or truncate a line."""
    lines = data.split(b"\n")
    at = draw.randrange(max(1, len(lines) - 1))
    new = ([lines[at]] * 2, [], [b""], [lines[at] * 50000], [lines[at].split(b" ")[0]])
    lines[at : at + 1] = draw.choice(new)
    return b"\n".join(lines)


def number(data, draw):
    """Replace a number in a text with one out of range."""
    found = [*re.finditer(rb"\d+", data)]
    if not found:
        return flip(data, draw)
    at = draw.choice(found).span()
    new = draw.choice((b"-1", b"1e999", b"nan", b"9" * 30, "²".encode(), b"x", b""))
    return data[: at[0]] + new + data[at[1] :]


def field(data, draw):
    """Change the value of a field of a JSON document."""
    document = json.loads(data)
    holder, key = draw.choice(_places(document))
    new = [v for v in VALUES if not isinstance(v, type(holder[key]))] or [None]
    holder[key] = draw.choice(new)
    return json.dumps(document).encode()


def missing(data, draw):
    """Drop a field of a JSON document."""
    document = json.loads(data)
    holder, key = draw.choice(_places(document))
    del holder[key]
    return json.dumps(document).encode()


def extra(data, draw):
    """Add an unknown field to a JSON document."""
    document = json.loads(data)
    if not isinstance(document, dict):
        return b'{"surprise": 1}'
    document["surprise"] = draw.choice(VALUES)
    return json.dumps(document).encode()


def nested(data, draw):
    """Nest brackets 100,000 deep."""
    return b"[" * 100_000 + b"]" * 100_000


def other_json(data, draw):
    """Replace a JSON document with one of another type."""
    return json.dumps(draw.choice(VALUES)).encode()


def yaml_value(data, draw):
    """Change the value of a key of a YAML document, or repeat the key."""
    lines = data.decode().splitlines()
    keys = [i for i, text in enumerate(lines) if re.match(r"\s*[\w+]+:", text)]
    at = draw.choice(keys)
    key = lines[at].partition(":")[0]
    odd = (
        "null",
        "yes",
        ".nan",
        "-1",
        "1e99",
        "[]",
        "{}",
        "../x",
        "[[1]]",
        "2026-01-01",
    )
    new = draw.choice((*odd, "&a [*a, *a]", f"1\n{key}: 2", "!!python/name:os.system"))
    lines[at] = f"{key}: {new}"
    return "\n".join(lines).encode()


def yaml_bomb(data, draw):
    """Insert aliases that expand to 10^9 words into a YAML document."""
    names = "abcdefghi"
    text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
    for old, new in itertools.pairwise(names):
        text += f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    return text.encode() + data


def weight(data, draw):
    """Drop, add, rename, truncate or corrupt a tensor of a checkpoint."""
    state = torch.load(io.BytesIO(data), weights_only=False)
    _spoil(state["model"], draw)
    return _saved(state)


def safetensor(data, draw):
    """Do the same with a safetensors file."""
    tensors = safetensors.torch.load(data)
    _spoil(tensors, draw)
    return safetensors.torch.save(tensors)


def setting(data, draw):
    """Change a setting of a checkpoint's model to a value of another type."""
    state = torch.load(io.BytesIO(data), weights_only=False)
    settings = _settings(state)
    name = draw.choice([*sorted(settings), "surprise"])
    settings[name] = draw.choice((None, -1, 10**11, "x", [], "${oc.env:HOME}"))
    return _saved(state)


def code_in_settings(data, draw):
    """Insert code into a setting that fairseq evaluates."""
    state = torch.load(io.BytesIO(data), weights_only=False)
    arch, name = draw.choice(
        [
            *[("transformer", "adaptive_softmax_cutoff"), ("fconv", "encoder_layers")],
            *[("fconv_self_att", "decoder_attention"), ("lightconv", "encoder_layers")],
        ]
    )
    _settings(state).update({"_name": arch, "arch": arch, name: CODE})
    return _saved(state)


def code_in_pickle(data, draw):
    """Replace a checkpoint with a pickle that runs a command."""
    return pickle.dumps({"model": {}, "cfg": _Evil()}, protocol=draw.choice((0, 2, 4)))


class _Evil:
    def __reduce__(self):
        return eval, (CODE,)


def _places(value):
    found = []
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in list(pairs)[:50]:
            found += [(value, key), *_places(inner)]
    return found


def _settings(state):
    found = state["cfg"]["model"]
    return found if isinstance(found, dict) else vars(found)


def _spoil(tensors, draw):
    name = draw.choice([n for n in sorted(tensors) if tensors[n].is_floating_point()])
    tensor = tensors.pop(name)
    kind = draw.randrange(6)
    if kind == 0:
        tensors[f"{name}.surprise"] = tensor
    elif kind == 1:
        tensors[name] = tensor.flatten()[:-1].clone()
    elif kind == 2:
        tensors[name] = torch.full_like(tensor, float("nan"))
    elif kind == 3:
        tensors[name] = tensor.to(torch.int64)
    elif kind == 4:
        tensors[name] = tensor[None].clone()
    # else it stays away


def _saved(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


ANY = (flip, cut, empty, noise)
TEXT = (*ANY, not_utf_8, nul, line, number)
JSON = (field, field, field, field, missing, extra, nested, other_json, cut, not_utf_8)
YAML = (yaml_value, yaml_value, yaml_value, yaml_bomb, not_utf_8, cut, nul, number)
CHECKPOINT = (*ANY, weight, weight, setting, setting, code_in_settings, code_in_pickle)
WAYS = {
    **{".json": JSON, ".yaml": YAML, ".pt": CHECKPOINT},
    **{".safetensors": (*ANY, safetensor, safetensor, safetensor)},
    **{".bin": (*ANY, doubled), ".idx": (*ANY, doubled)},
}
# After one of these, the file cannot be valid.
HOPELESS = (
    empty,
    noise,
    nested,
    other_json,
    yaml_bomb,
    code_in_settings,
    code_in_pickle,
)
