"""Hand-written augmented files, hostile file names, a simulated full disk, pictures."""

import json
import resource
import struct
from contextlib import contextmanager
from pathlib import Path

from fairseq_scl.data.texts import Example

NOISY = {"good": "fine", "bad": "dull", "the": "a", "is": "and"}

HOSTILE = [
    "with spaces and (brackets)",
    'it\'s "quoted" `and` $HOME',
    "Grüße 你好 🙂",
    "-rf *",
    "new\nline",
    "." + "x" * 200,
]


@contextmanager
def full_disk(limit=3000):
    """Limit this process to ``limit`` bytes per file, like a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def noisy(text: str, copy: int) -> str:
    """Change a sentence slightly and differently for each copy; copy 0 is unchanged."""
    words = [NOISY.get(word, word) if copy else word for word in text.split()]
    return " ".join([*words, *["very"] * copy])


def rows_of(examples: list[Example], copies: int = 3) -> list[dict]:
    """Return the rows of an augmented file."""
    rows = []
    for origin, example in enumerate(examples):
        for copy in range(copies):
            row = {"origin": origin, "copy": copy, "label": example.label}
            for number, text in enumerate(example.sentences):
                row |= {f"source{number}": text, f"pivot{number}": text.upper()}
                row[f"input{number}"] = noisy(text, copy)
            row["unchanged"] = copy == 0
            rows.append(row)
    return rows


def write_outputs(path: Path, rows: list[dict]) -> Path:
    """Write the file, and its settings next to it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, "utf-8")
    counts = {"outputs": len(rows)}
    made = json.dumps(
        {
            **{"schema": 1, "settings": {"seed": 0}, "counts": counts},
            **{"origins": {}, "versions": {}, "threads": 1},
        }
    )
    path.with_suffix(".json").write_text(made, "utf-8")
    return path


def contents(folder):
    """Return the bytes of every file in a folder by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def size_of_png(path):
    """Return width and height as the file's header states them."""
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert content[-8:-4] == b"IEND"
    return struct.unpack(">II", content[16:24])
