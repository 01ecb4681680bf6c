"""``fairseq-scl analyze``."""

import argparse
from typing import Any

from tqdm import tqdm

from fairseq_scl.cli.options import (
    add_cache,
    add_device,
    add_split,
    encoder_folder,
    files_to_write,
    named_folders,
    number,
)
from fairseq_scl.convert.pooling import POOLINGS
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST, verify
from fairseq_scl.experiments.frozen import measured, probed
from fairseq_scl.experiments.geometry import TOP
from fairseq_scl.experiments.probe import Probe
from fairseq_scl.report.analysis import analysis_sheets, write_analysis


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    add_split(
        parser,
        done="measured",
        model="encoder (folder or name, before fine-tuning) or model folder (after); "
        "repeatable",
        files="Markdown file to write, along with a JSON file of the same name. If it "
        "is analysis.md in a results folder, the report includes its encoders",
    )
    parser.add_argument(
        "--probe",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="data folder of another task on which to train and test a logistic "
        "regression on the frozen features of each model; repeatable",
    )
    parser.add_argument(
        "--pooling",
        choices=POOLINGS,
        help="features to measure and probe: the state at <s>, or the mean over the "
        "tokens (default: what the heads of each folder read)",
    )
    parser.add_argument(
        "--top",
        **number(1),
        default=TOP,
        help="number of largest singular values to average",
    )
    add_cache(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure the models, write the files and print the tables."""
    files = files_to_write(arguments.to, ".md", ".json")
    models = {
        name: encoder_folder(str(folder), arguments.cache, f"--model {name}=", True)
        for name, folder in named_folders("--model", arguments.model).items()
    }
    others = named_folders("--probe", arguments.probe)
    data, device = arguments.data, arguments.device
    split, top, pooling = arguments.split, arguments.top, arguments.pooling
    for folder in {data, *models.values(), *others.values()}:
        verify(folder)
    found: dict[str, dict[str, float]] = {}
    probes: dict[str, dict[str, Probe]] = {title: {} for title in others}
    total = len(models) * (1 + len(others))
    with tqdm(total=total, unit=" analyses", disable=None) as bar:
        for name, folder in models.items():
            bar.set_description(name)
            found[name] = measured(folder, data, split, device, top, pooling)
            bar.update()
            for title, other in others.items():
                bar.set_description(f"{name}, {title}")
                probes[title][name] = probed(folder, other, device, pooling=pooling)
                bar.update()
    made: dict[str, Any] = {"split": split, "top": top, "pooling": pooling}
    made |= {"data": sha256(data / MANIFEST)}
    made["probes"] = {title: sha256(one / MANIFEST) for title, one in others.items()}
    sheets = analysis_sheets(split, found, probes, top)
    print(write_analysis(arguments.to, sheets, made, models, found, probes), end="\n\n")
    for file in files:
        print(f"wrote {file}")
    return 0
