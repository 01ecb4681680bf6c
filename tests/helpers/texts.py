"""Sentences and labels in text files."""

from pathlib import Path

from fairseq_scl.data.texts import one_line


def write_split(folder, split, examples):
    """Write examples to files that ``read_split`` can read."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = zip(*(example.sentences for example in examples), strict=True)
    for number, column in enumerate(columns):
        lines = [one_line(text) + "\n" for text in column]
        Path(folder, f"{split}.input{number}").write_text("".join(lines), "utf-8")
    labels = [example.label + "\n" for example in examples]
    Path(folder, f"{split}.label").write_text("".join(labels), "utf-8")
