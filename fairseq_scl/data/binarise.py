"""From labelled sentences to a data folder that ``fairseq-train`` reads."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from fairseq.data import Dictionary, indexed_dataset

from fairseq_scl.data.files import (
    folder_then_rename,
    read_json,
    sha256,
    write_json,
    write_then_rename,
)
from fairseq_scl.data.texts import (
    Example,
    check_known_labels,
    check_same_columns,
    class_labels,
)
from fairseq_scl.data.tokenizers import Tokenizer, load_tokenizer
from fairseq_scl.errors import InputError

MANIFEST = "manifest.json"
LABEL_MAP = "label_map.json"


def binarise(
    splits: Mapping[str, Sequence[Example]], encoder: str | Path, target: str | Path
) -> dict[str, int]:
    """Write a data folder: what ``fairseq-train`` takes as its first argument.

    ``input0/``, ``input1/`` (for pairs) and ``label/`` in fairseq's binary format with
    the encoder's dictionary, the tokeniser's files, ``label_map.json`` (class id to
    label) and ``manifest.json`` (counts, checksums, how a pair is joined). Class ids
    follow the labels' names, whatever their frequencies.

    Args:
        splits: ``train`` and any of ``valid``, ``test``, not empty.
        encoder: an encoder folder (``dict.txt`` and tokeniser files).
        target: the folder to write; an older data folder there is replaced when all of
            the new one is complete.

    Returns:
        the number of examples of each split.

    Raises:
        InputError: labels that the training set does not have, splits of unlike
            columns, an encoder folder without its files, a target that is no data
            folder, a disk that is full.
    """
    kept = {split: list(examples) for split, examples in splits.items()}
    check_same_columns(kept)
    labels = class_labels(kept["train"])
    for examples in kept.values():
        check_known_labels(examples, labels)
    tokenizer = load_tokenizer(encoder)
    dictionary = load_dictionary(Path(encoder, "dict.txt"))
    with folder_then_rename(target, MANIFEST) as folder:
        for number in range(len(kept["train"][0].sentences)):
            part = folder / f"input{number}"
            part.mkdir()
            shutil.copyfile(Path(encoder, "dict.txt"), part / "dict.txt")
            for split, examples in kept.items():
                texts = [example.sentences[number] for example in examples]
                _write_texts(part / split, texts, tokenizer, dictionary)
        _write_labels(folder / "label", kept, labels)
        tokenizer.save(folder)
        write_json(folder / LABEL_MAP, {"labels": labels})
        write_json(folder / MANIFEST, _manifest(folder, kept, tokenizer))
    return {split: len(examples) for split, examples in kept.items()}


def load_dictionary(path: str | Path) -> Dictionary:
    """Load a fairseq dictionary with the ``<mask>`` that the task appends.

    Raises:
        InputError: the file is missing or no dictionary.
    """
    if not Path(path).is_file():
        raise InputError(f"missing dictionary: {path}")
    try:
        dictionary = Dictionary.load(str(path))
    except Exception as error:  # fairseq has no narrower one for a wrong encoding
        raise InputError(f"{path} is no fairseq dictionary: {error}") from error
    dictionary.add_symbol("<mask>")
    return dictionary


def read_labels(folder: str | Path) -> list[str]:
    """Return the labels of a data or model folder in the order of their class ids.

    Raises:
        InputError: the folder has no ``label_map.json``.
    """
    return list(read_json(Path(folder, LABEL_MAP))["labels"])


def fairseq_flags(folder: str | Path) -> list[str]:
    """Return the flags that a data folder asks of ``fairseq-train``.

    The number of classes, ``<s>`` before the first sentence and, where the encoder was
    trained so, an additional ``</s>`` before the second.
    """
    manifest = read_json(Path(folder, MANIFEST))
    flags = ["--num-classes", str(len(read_labels(folder))), "--init-token", "0"]
    if manifest["pair_separator"]:
        flags += ["--separator-token", "2"]
    return flags


def _write_texts(
    path: Path, texts: list[str], tokenizer: Tokenizer, dictionary: Dictionary
) -> None:
    builder = indexed_dataset.make_builder(
        f"{path}.bin", impl="mmap", vocab_size=len(dictionary)
    )
    for symbols in tokenizer.encode_lines(texts):
        ids = [dictionary.index(symbol) for symbol in symbols]
        builder.add_item(torch.IntTensor([*ids, dictionary.eos()]))
    builder.finalize(f"{path}.idx")


def _write_labels(
    folder: Path, splits: Mapping[str, Sequence[Example]], labels: Sequence[str]
) -> None:
    folder.mkdir()
    counts = Counter(example.label for example in splits["train"])
    with write_then_rename(folder / "dict.txt") as file:
        file.writelines(f"{label} {counts[label]}\n" for label in labels)
    dictionary = Dictionary.load(str(folder / "dict.txt"))
    for split, examples in splits.items():
        builder = indexed_dataset.make_builder(
            str(folder / f"{split}.bin"), impl="mmap", vocab_size=len(dictionary)
        )
        for example in examples:
            ids = [dictionary.index(example.label), dictionary.eos()]
            builder.add_item(torch.IntTensor(ids))
        builder.finalize(str(folder / f"{split}.idx"))


def _manifest(
    folder: Path, splits: Mapping[str, Sequence[Example]], tokenizer: Tokenizer
) -> dict[str, object]:
    pair = len(splits["train"][0].sentences) == 2
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        "schema": 1,
        "examples": {split: len(examples) for split, examples in splits.items()},
        "pair": pair,
        "pair_separator": pair and tokenizer.pair_separator,
        "sha256": {str(p.relative_to(folder)): sha256(p) for p in files},
    }
