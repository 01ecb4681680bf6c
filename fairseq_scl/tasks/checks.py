"""Checks of a data folder, and of a checkpoint against the model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed
from numpy.typing import NDArray
from torch import Tensor, nn

from fairseq_scl.compat.checkpoints import EMBEDDING, check_finite
from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import BOS, check_shortening, check_tokens, read_manifest
from fairseq_scl.models.pooling import head_pooling
from fairseq_scl.rows import open_rows

POSITIONS = "encoder.sentence_encoder.embed_positions.weight"
HEADS = "classification_heads."


def check_data_folder(folder: str, num_classes: int) -> None:
    """Refuse a data folder without dictionaries, or a missing ``--num-classes``.

    Raises:
        InputError: says what is missing and how to create it.
    """
    for part in ("input0", "label"):
        file = Path(folder, part, "dict.txt")
        if not file.is_file():
            raise InputError(
                f"missing dictionary {file}: {folder} is not a data folder; create one "
                "with 'fairseq-scl prepare'"
            )
    if num_classes < 1:
        raise InputError(
            f"--num-classes is {num_classes}: it must be the number of classes, at "
            "least 2"
        )


def check_cuda_graphs(cfg: Any, model: nn.Module) -> None:
    """Refuse settings that ``--cuda-graphs`` cannot reproduce.

    Raises:
        InputError: names the other flag and the reason.
    """
    workers = (
        torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    )
    for found, reason in (
        (not cfg.packed, "needs --packed"),
        (
            cfg.chunk,
            "cannot be combined with --chunk, whose passes repeat their dropout",
        ),
        (workers > 1, "needs --distributed-world-size 1"),
        (head_pooling(model) != "cls", "needs --head-pooling cls"),
        (
            getattr(getattr(model, "args", None), "encoder_layerdrop", 0),
            "cannot be combined with --encoder-layerdrop, which skips layers at random",
        ),
    ):
        if found:
            raise InputError(f"--cuda-graphs {reason}")


def settle_tokens(cfg: Any) -> None:
    """Set the special tokens that a data folder asks for.

    Args:
        cfg: the task's settings; ``init_token`` and ``separator_token`` are set. For
            a folder from ``fairseq-preprocess`` they stay as given, except that
            ``init_token`` defaults to ``<s>``.

    Raises:
        InputError: a given token differs from the folder's, or examples are to be cut
            at random places although prediction cuts off the end.
    """
    check_shortening(
        cfg.shorten_method, cfg.shorten_data_split_list, "--shorten-method"
    )
    manifest = read_manifest(cfg.data)
    if manifest is not None:
        given = {"init_token": cfg.init_token, "separator_token": cfg.separator_token}
        for name, token in check_tokens(given, manifest, "--{flag}").items():
            setattr(cfg, name, token)
    elif cfg.init_token is None:  # the head always reads <s>
        cfg.init_token = BOS


def check_split(folder: str, split: str, symbols: int) -> None:
    """Refuse a split whose binary files are missing, damaged or differ in length.

    The ids of its texts must be below ``symbols``, the size of their dictionary.

    Raises:
        InputError: names the file.
    """
    second = ["input1"] if Path(folder, "input1").is_dir() else []
    first, *others = (
        Path(folder, part, split) for part in ("input0", *second, "label")
    )
    for path in (first, *others):
        for file in (Path(f"{path}.bin"), Path(f"{path}.idx")):
            if not file.is_file():
                raise InputError(f"missing file for the split {split!r}: {file}")
    lines = len(open_rows(first, symbols))
    for path in others:
        rows = open_rows(path, None if path.parent.name == "label" else symbols)
        if len(rows) != lines:
            raise InputError(f"{path} has {len(rows)} lines, {first} has {lines}")


def check_numbers(folder: str, split: str) -> None:
    """Refuse a split without the numbers that ``--regression-target`` reads.

    Raises:
        InputError: names the file.
    """
    file = Path(folder, "label", f"{split}.label")
    if not file.is_file():
        raise InputError(
            f"--regression-target reads numbers from {file}, which is missing: omit "
            "the flag if the labels are classes"
        )


def class_ids(
    dataset: Any, folder: str, split: str, num_classes: int
) -> NDArray[np.int64]:
    """Return the class ids in fairseq's nested dataset of a split.

    Returns:
        ``(N,)`` int64, from 0 to ``num_classes - 1``.

    Raises:
        InputError: a label has several words or is not in the label dictionary; names
            the line, counted from 1.
    """
    targets = dataset.defn["target"]
    labels = Path(folder, "label", split)
    ids = np.zeros(len(targets), dtype=np.int64)
    for i in range(len(targets)):
        target = targets[i].tolist()
        if len(target) != 1:
            raise InputError(
                f"{labels}, line {i + 1}: the label has {len(target)} words, it must "
                "be one word"
            )
        if not 0 <= target[0] < num_classes:
            raise InputError(
                f"{labels}, line {i + 1}: the label is not one of the {num_classes} in "
                f"{Path(folder, 'label', 'dict.txt')}"
            )
        ids[i] = target[0]
    return ids


def check_sizes(
    dataset: Any, rows: NDArray[np.int64], most: Any, folder: str, split: str
) -> None:
    """Refuse a split with an example that is too long for the model.

    The rows of the dataset are the lines of the split; only ``rows``, ``(R,)`` int64,
    are used. ``most`` is the largest number of tokens, as fairseq passes it.

    Raises:
        InputError: names the first line that is too long, counted from 1, and the
            flags that help.
    """
    _, long = dataset.filter_indices_by_size(rows, most)
    if len(long):
        row = min(long)
        raise InputError(
            f"{Path(folder, 'input0', split)}, line {row + 1}: {dataset.size(row)} "
            f"tokens, but the model reads at most {most} (examples that are too long: "
            f"{len(long)}); cut them with --shorten-method truncate, or skip them with "
            "--skip-invalid-size-inputs-valid-test"
        )


def check_max_tokens(dataset: Any, most: int, folder: str, split: str) -> None:
    """Refuse a ``--max-tokens`` below the longest example of a split.

    Raises:
        InputError: names the first line that is too long, counted from 1.
    """
    long = [row for row in range(len(dataset)) if dataset.num_tokens(row) > most]
    if long:
        raise InputError(
            f"{Path(folder, 'input0', split)}, line {long[0] + 1}: "
            f"{dataset.num_tokens(long[0])} tokens, but a batch has at most {most} "
            f"(examples that are too long: {len(long)}); raise --max-tokens or "
            "--max-tokens-valid, or shorten the examples with --shorten-method "
            "truncate and a lower --max-positions"
        )


def check_loaded_weights(model: nn.Module) -> None:
    """Make ``model.load_state_dict`` report mismatched shapes in one sentence.

    fairseq prints a page of keys. The usual causes are a different vocabulary (data
    prepared with other dictionaries) and a different ``--arch``. An encoder may have
    more positions than ``--max-positions``; those beyond are not loaded.
    """
    wanted = _shapes(model.state_dict())

    @exit_on_input_error()
    def check(own: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
        if prefix:
            return
        if POSITIONS in state and _lacks_heads(own, state):
            state[POSITIONS] = state[POSITIONS][: wanted[POSITIONS][0]]
        if message := _mismatch(wanted, _shapes(state)):
            raise InputError(message)
        check_finite(state, "the checkpoint")

    model.register_load_state_dict_pre_hook(check)


def _mismatch(wanted: dict[str, Any], found: dict[str, Any]) -> str | None:
    if EMBEDDING in found and wanted[EMBEDDING][0] != found[EMBEDDING][0]:
        return (
            f"the checkpoint has {found[EMBEDDING][0]} symbols, but "
            f"the dictionary of the data has {wanted[EMBEDDING][0]}: prepare the data "
            "with the encoder's own dict.txt ('fairseq-scl prepare --encoder')"
        )
    encoder = {n for n in wanted if n.startswith("encoder.sentence_encoder.")}
    other = sorted(n for n in encoder & found.keys() if wanted[n] != found[n])
    layers = {n for n in found if n.startswith("encoder.sentence_encoder.layers.")}
    other += sorted((encoder - found.keys()) | (layers - encoder))
    if other:
        name, flag = other[0], "--max-positions" if other == [POSITIONS] else "--arch"
        return (
            f"the checkpoint does not match {flag}: the shape of "
            f"{name} is {found.get(name, 'absent')} in the checkpoint and "
            f"{wanted.get(name, 'absent')} in the model"
        )
    return None


def _lacks_heads(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    """Return whether a checkpoint is an encoder, not one that a training resumes from.

    fairseq has already filled in missing heads with those of the model.
    """
    heads = {n: t for n, t in model.state_dict().items() if n.startswith(HEADS)}
    return all(state[n].data_ptr() == t.data_ptr() for n, t in heads.items())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
