"""``fairseq-scl evaluate``."""

import argparse
from pathlib import Path

from scipy.special import softmax

from fairseq_scl.cli.endings import note
from fairseq_scl.cli.options import (
    FILE,
    FOLDER,
    MODEL_FOLDER,
    SEVERAL,
    add_device,
    add_drop_empty,
    add_max_tokens,
    add_precision,
    files_to_write,
)
from fairseq_scl.data.binarize import read_examples
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST, verify
from fairseq_scl.data.own_file import guess_columns, read_rows
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.records import origin
from fairseq_scl.inference.evaluation import evaluate, example_logits
from fairseq_scl.inference.model_folder import LoadedModel, load_classifier
from fairseq_scl.inference.temperature import fit_temperature, store_temperature
from fairseq_scl.report.evaluation import (
    SUFFIXES,
    evaluation_as_markdown,
    write_evaluation,
)
from fairseq_scl.report.signature import evaluation_signature

SCALING_SPLIT = "valid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument("--model", required=True, **FOLDER, help=MODEL_FOLDER)
    parser.add_argument(
        "file",
        **FILE,
        help="labeled examples: a .tsv, .csv or .jsonl with named columns, or a data "
        "folder (--split)",
    )
    parser.add_argument(
        "--columns",
        **SEVERAL,
        default=[],
        metavar="NAME",
        help="with a table: names of the columns with one or two sentences, followed "
        "by that of the label (default: found by their usual names, as in train)",
    )
    add_drop_empty(parser, "with a table: ")
    parser.add_argument("--split", help="with a data folder: its split (default: test)")
    parser.add_argument(
        "--temperature-scaling",
        **FILE,
        help="table, or data folder whose split valid is used, on which to fit the "
        "temperature of the model's probabilities first; it is stored in the model "
        "folder. These must not be the examples to evaluate",
    )
    parser.add_argument(
        "--to",
        **FILE,
        help="JSON file to write, along with Markdown, HTML and PNG files of the same "
        "name",
    )
    add_max_tokens(parser)
    add_device(parser)
    add_precision(parser)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate the model, print the tables and write the files."""
    files = files_to_write(arguments.to, *SUFFIXES) if arguments.to else []
    _refuse_strangers(arguments)
    split = arguments.split or "test"
    examples = _examples(arguments.file, arguments, split)
    verify(arguments.model)
    model = load_classifier(arguments.model, arguments.device, arguments.precision)
    logits, truth = example_logits(
        model, examples, arguments.file, arguments.max_tokens, note
    )
    if arguments.temperature_scaling is not None:  # changes the model folder
        _scale(model, arguments)
    probabilities = softmax(logits / model.temperature, axis=1)
    found = evaluate(probabilities, truth, model.labels, examples)
    data, part = arguments.file, {"split": split}
    if data.is_dir():
        data /= MANIFEST
    else:
        part = {"columns": " ".join(arguments.columns or guess_columns(data))}
    checksums = {"data": sha256(data), "model": sha256(arguments.model / "model.pt")}
    made = {
        **part,
        "device": arguments.device,
        "precision": arguments.precision,
        "temperature": model.temperature,
        "origin": origin(checksums),
    }
    line = evaluation_signature(found.examples, made)
    print(evaluation_as_markdown(found, line))
    for warning in found.warnings():
        note(warning, "warning")
    if files:
        title = f"{arguments.model.resolve().name} on {arguments.file.resolve().name}"
        write_evaluation(found, title, line, made, arguments.to)
        print("", *(f"wrote {file}" for file in files), sep="\n")
    return 0


def _refuse_strangers(arguments: argparse.Namespace) -> None:
    """Check that the options fit the kind of source, and that the sources differ."""
    file, folder = arguments.file, arguments.file.is_dir()
    other = arguments.temperature_scaling
    same = other is not None and other.resolve() == file.resolve()
    if same and (not folder or arguments.split == SCALING_SPLIT):
        raise InputError(
            f"--temperature-scaling is {other}, whose examples are also evaluated: "
            "fit the temperature on others"
        )
    for flag in ("columns", "drop_empty"):
        if getattr(arguments, flag) and folder:
            raise InputError(
                f"--{flag.replace('_', '-')} needs a table, but {file} is a folder"
            )
    if arguments.split is not None and not folder:
        raise InputError(
            f"--split {arguments.split} needs a data folder, but {file} is a table"
        )


def _scale(model: LoadedModel, arguments: argparse.Namespace) -> None:
    """Fit the temperature on validation examples, and store it."""
    source = arguments.temperature_scaling
    examples = _examples(source, arguments, SCALING_SPLIT)
    logits, truth = example_logits(model, examples, source, arguments.max_tokens, note)
    temperature = fit_temperature(logits, truth, source)
    store_temperature(arguments.model, model, temperature)
    print(
        f"temperature {temperature:.3f}, fitted on {len(examples)} examples, is stored "
        f"in {arguments.model}\n"
    )


def _examples(source: Path, arguments: argparse.Namespace, split: str) -> list[Example]:
    """Read the labeled examples of a table or of a split of a data folder."""
    if source.is_dir():
        return read_examples(source, split)
    columns = arguments.columns or guess_columns(source)
    found = read_rows(source, columns, arguments.drop_empty, note)
    first: dict[tuple[str, ...], str] = {}
    other = [e for e in found if first.setdefault(e.sentences, e.label) != e.label]
    if other:
        note(
            f"{len(other)} rows of {source} have the text of an earlier row, but "
            f"another label, the first at {other[0].origin}"
        )
    return found
