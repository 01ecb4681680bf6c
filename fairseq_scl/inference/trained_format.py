"""Compare the input format of a checkpoint with the data folder of an export."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fairseq_scl.compat.checkpoints import check_dictionary_size
from fairseq_scl.data.files import sha256
from fairseq_scl.data.tokenizers import Tokenizer, load_tokenizer
from fairseq_scl.errors import InputError, first_few
from fairseq_scl.inference.stock_checkpoint import plain_values
from fairseq_scl.input_format import (
    HEAD,
    KEY,
    MANIFEST,
    InputFormat,
    Manifest,
    check_shortening,
    check_tokens,
    dictionary_checksum,
    label_names,
    read_manifest,
)
from fairseq_scl.rows import load_dictionary
from fairseq_scl.typed import as_type

# The key in a checkpoint's extra state that says whether its head is a regression.
FITTED_HEAD = "regression_head"


@dataclass(frozen=True)
class TrainingData:
    """A data folder and the tokenizer of its text."""

    data: Path
    tokenizer: Tokenizer
    tokenizer_folder: Path


def read_source(data: str | Path, encoder: str | Path | None) -> TrainingData:
    """Find the tokenizer of a data folder.

    Args:
        data: a folder from ``fairseq-scl prepare``, which includes the tokenizer, or
            from ``fairseq-preprocess``.
        encoder: for ``fairseq-preprocess``, the encoder folder with the tokenizer that
            was used.

    Raises:
        InputError: there is no tokenizer, or it belongs to another dictionary.
    """
    prepared = read_manifest(data) is not None
    if not prepared and encoder is None:
        raise InputError(
            f"missing file: {Path(data, MANIFEST)}; for data from fairseq-preprocess, "
            "which does not include a tokenizer, pass the encoder folder as --encoder"
        )
    folder = Path(data) if encoder is None else Path(encoder)
    if encoder is not None:
        wanted = Path(data, "input0", "dict.txt")
        if _checksum(folder / "dict.txt") != _checksum(wanted):
            raise InputError(
                f"--encoder is {folder}, whose dict.txt has other symbols than {wanted}"
            )
    return TrainingData(Path(data), load_tokenizer(folder), folder)


def trained_format(
    state: Mapping[str, Any],
    task: Mapping[str, Any],
    checkpoint: str | Path,
    source: TrainingData,
) -> InputFormat:
    """Return the input format that a checkpoint was trained with.

    It is the format recorded in the checkpoint. A checkpoint of stock fairseq has no
    record, so the settings of its ``task`` are used instead.

    Raises:
        InputError: the folder differs from that of the training; names the difference.
    """
    record = (state.get("task_state") or {}).get(KEY)
    here = _folder_format(task, source, checkpoint, record is None)
    trained = here
    if record is not None:
        trained = as_type(record, InputFormat, f"{checkpoint}: {KEY}")
    for name, what in (
        ("dictionary", source.data / "input0" / "dict.txt"),
        ("labels", source.data / "label" / "dict.txt"),
        ("pair", f"{source.data / 'input1'} (the second sentence of pairs)"),
        ("tokenizer", f"the tokenizer in {source.tokenizer_folder}"),
    ):
        then, now = getattr(trained, name), getattr(here, name)
        if then != now and not (name == "tokenizer" and not then):
            seen = f" ({_listed(now)}, not {_listed(then)})" if name == "labels" else ""
            raise InputError(
                f"{what} differs from what {checkpoint} was trained on{seen}: use the "
                "data folder of its training"
            )
    return trained


def unrecorded(state: Mapping[str, Any], source: TrainingData) -> str | None:
    """Return a warning if a checkpoint lacks its input format, or ``None``."""
    if KEY in (state.get("task_state") or {}):
        return None
    names = label_names(load_dictionary(source.data / "label" / "dict.txt").symbols)
    return (
        "the checkpoint does not record its labels and tokenizer: "
        f"{_listed(names)} and the tokenizer are taken from {source.data}, which must "
        "be the data of its training"
    )


def learned_nothing(state: Mapping[str, Any], labels: list[str]) -> str | None:
    """Return a warning if a checkpoint predicted one label for a whole validation set.

    The reason may be that its head was not trained. Only our task records predictions;
    otherwise, and if they differ, return ``None``.
    """
    criterion = plain_values(state["cfg"].get("criterion") or {})
    extra = state.get("extra_state")
    fitted = isinstance(extra, dict) and extra.get(FITTED_HEAD) is True
    # The label embeddings of ACL-Embed are the head's last projection.
    fitted |= criterion.get("scl_features") == "pooled" and bool(
        criterion.get("acl_embed")
    )
    if criterion.get("scl_lambda") == 1 and not fitted:
        return (
            "this model was trained with λ = 1, without cross-entropy, so its "
            "classification head is still random"
        )
    noted = (state.get("task_state") or {}).get("answers")
    for subset, counts in noted.items() if isinstance(noted, dict) else ():
        if len(counts) == len(labels) and max(counts) == sum(counts) > 0:
            label = labels[counts.index(max(counts))]
            return (
                f"at its last validation this model predicted {label!r} for all "
                f"{sum(counts)} examples of {subset}: it has learned nothing else"
            )
    return None


def check_head(weights: Mapping[str, Tensor], head: str, checkpoint: object) -> None:
    """Refuse a checkpoint that lacks its classification head.

    Raises:
        InputError: names the head and the existing heads.
    """
    if f"classification_heads.{head}.out_proj.weight" not in weights:
        found = sorted({n.split(".")[1] for n in weights if n.startswith("classifi")})
        raise InputError(
            f"{checkpoint} has no classification head {head!r}"
            + (f", only {', '.join(found)}" if found else "")
            + ": use a checkpoint that was fine-tuned with a sentence prediction "
            "criterion"
        )


def check_sizes(
    weights: Mapping[str, Tensor], trained: InputFormat, checkpoint: object, data: Path
) -> None:
    """Refuse weights whose head or embedding does not match the size of the data's.

    Raises:
        InputError: names both numbers.
    """
    classes = len(weights[f"classification_heads.{trained.head}.out_proj.weight"])
    if classes != len(trained.labels):
        raise InputError(
            f"{checkpoint} has {classes} classes, but {data / 'label' / 'dict.txt'} "
            f"has {len(trained.labels)}: use the data folder that it was trained on"
        )
    check_dictionary_size(weights, data, checkpoint)


def check_model(trained: InputFormat, model: Any, symbols: int, file: Path) -> None:
    """Refuse a format, read from ``file``, that a loaded model cannot follow.

    Raises:
        InputError: names the file, the field and its value.
    """
    head, wrong = trained.head, None
    heads = getattr(model, "classification_heads", {})
    positions = model.encoder.sentence_encoder.embed_positions
    tokens = ("init_token", "separator_token")
    if head not in heads:
        wrong = "head"
    elif heads[head].out_proj.out_features != len(trained.labels):
        wrong = "labels"
    elif positions is not None and trained.max_positions > positions.max_positions:
        wrong = "max_positions"
    elif beyond := [n for n in tokens if (getattr(trained, n) or 0) >= symbols]:
        wrong = beyond[0]
    if wrong:
        raise InputError(
            f"{file}: {wrong} is {getattr(trained, wrong)!r}, which does not fit the "
            "model.pt next to it: export the model again"
        )


def _folder_format(
    task: Mapping[str, Any],
    source: TrainingData,
    checkpoint: object,
    settings_count: bool,
) -> InputFormat:
    """Return the format of a data folder with the special tokens of the settings."""
    data, manifest = source.data, read_manifest(source.data)
    tokens = {name: task.get(name) for name in ("init_token", "separator_token")}
    check_shortening(
        task.get("shorten_method"),
        task.get("shorten_data_split_list"),
        f"the --shorten-method of {checkpoint}",
    )
    if settings_count and manifest is not None:
        _check_stock_tokens(tokens, manifest, checkpoint)
    labels = load_dictionary(data / "label" / "dict.txt")
    folder = source.tokenizer_folder
    pair = (data / "input1").is_dir()
    return InputFormat(
        init_token=tokens["init_token"],
        separator_token=tokens["separator_token"] if pair else None,
        pair=pair,
        max_positions=int(task["max_positions"]),
        head=str(task.get("classification_head_name", HEAD)),
        labels=label_names(labels.symbols),
        dictionary=_checksum(data / "input0" / "dict.txt"),
        tokenizer={
            name: sha256(folder / name)
            for name in source.tokenizer.file_names
            if (folder / name).is_file()
        },
    )


def _check_stock_tokens(
    tokens: Mapping[str, int | None], manifest: Manifest, checkpoint: object
) -> None:
    wanted = check_tokens(tokens, manifest, f"the --{{flag}} of {checkpoint}")
    for name, token in wanted.items():
        if token != tokens[name] and (name == "init_token" or manifest.pair):
            raise InputError(
                f"{checkpoint} was trained without --{name.replace('_', '-')} {token}, "
                "which its data folder requires: train it again with "
                "--task sentence_prediction_scl, which sets it"
            )


def _checksum(path: Path) -> str:
    return dictionary_checksum(load_dictionary(path).symbols)


def _listed(labels: list[str]) -> str:
    return first_few(map(repr, labels))
