"""Accuracy and processor time of few-shot classifiers: ours, SetFit, Trainer, a probe.

``python -m benchmarks.accuracy --data FOLDER --encoder FOLDER --published FOLDER --to
FOLDER --samples 0-4``: every method gets the same encoder, training samples and test
sentences, and one thread. Each result is a line of ``results.jsonl`` in ``--to``, so
the command resumes; several at a time, with other samples, use several cores.

``--set updates=240 scl_temperature=0.1`` tries another setting of our methods, whose
results need another folder. ``valid_correct`` in their lines is what to choose by.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fairseq_scl.convert.pooling import Pooling
from fairseq_scl.data.binarize import read_labels
from fairseq_scl.data.files import sha256
from fairseq_scl.data.folders import MANIFEST
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import PRECISION_FLAGS
from fairseq_scl.experiments.frozen import probed
from fairseq_scl.experiments.own_training import (
    FEW_SHOT_RATE,
    FEW_SHOT_RECIPE,
    own_run,
    recommended_updates,
)
from fairseq_scl.experiments.records import origin
from fairseq_scl.experiments.runner import run_training
from fairseq_scl.experiments.statistics import (
    best_validation,
    paired_difference,
    result_at_best,
    summary,
)
from fairseq_scl.report.markdown import sheet_as_markdown
from fairseq_scl.report.numbers import NONE, interval, mean_and_std
from fairseq_scl.report.sheets import Sheet
from fairseq_scl.report.signature import benchmark_signature

# The objective or recipe of each.
OURS = {"CE": "ce", "CE+SCL": "scl", FEW_SHOT_RECIPE: FEW_SHOT_RECIPE}
PEERS = ("setfit", "trainer", "trainer-120")
METHODS = (*OURS, "frozen", *PEERS)
RESULTS = "results.jsonl"
POOLING: Pooling = "mean"  # of our methods, and of SetFit's default
Result = dict[str, Any]


def main() -> int:
    """Run what is missing and print the comparison."""
    arguments = _parser().parse_args()
    torch.set_num_threads(1)
    arguments.to.mkdir(parents=True, exist_ok=True)
    file = arguments.to / RESULTS
    first, _, last = arguments.samples.partition("-")
    for sample in range(int(first), int(last or first) + 1):
        data = arguments.data / f"n{arguments.size}-sample{sample}"
        for method in arguments.methods:
            if method not in _done(file, sample, _made(data, arguments)):
                found = _measured(method, sample, data, arguments)
                with file.open("a", encoding="utf-8") as lines:
                    line = {"method": method, "sample": sample, **found}
                    line["made"] = _made(data, arguments)
                    lines.write(json.dumps(line) + "\n")
    results = read_results(file)
    print(sheet_as_markdown(comparison(results, arguments.baseline)))
    if all("made" in one for one in results):  # results of older versions lack it
        print(f"\n`{signature(results)}`")
    return 0


def read_results(file: Path) -> list[Result]:
    """Return the results: method, sample, counts, seconds and how each was made."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def _done(file: Path, sample: int, made: Mapping[str, Any]) -> set[str]:
    """Return the methods that a file has results of on a sample.

    Raises:
        InputError: it has results of other settings, data or another encoder.
    """
    methods = set()
    for one in read_results(file):
        there = one.get("made", made)  # results of older versions lack it
        now = {key: (there[key], made[key]) for key in ("size", "set")}
        sums = [each["origin"]["sha256"] for each in (there, made)]
        now["encoder"] = (sums[0]["encoder"], sums[1]["encoder"])
        if one["sample"] == sample:
            methods.add(one["method"])
            now["data"] = (sums[0]["data"], sums[1]["data"])
        for key, (before, after) in now.items():
            if before != after:
                raise InputError(
                    f"{file} has results where {key} is {before}, not {after}: choose "
                    "another folder with --to"
                )
    return methods


def comparison(results: Iterable[Result], baseline: str) -> Sheet:
    """Compare each method with a baseline on the samples that both have.

    Args:
        results: from :func:`read_results`.
        baseline: a method.
    """
    found: dict[str, dict[int, Result]] = {}
    for one in results:
        found.setdefault(one["method"], {})[one["sample"]] = one

    def accuracy(method: str, samples: Iterable[int]) -> list[float]:
        of = found[method]
        return [100 * of[s]["correct"] / of[s]["total"] for s in samples]

    rows = []
    for method in sorted(found, key=METHODS.index):
        samples = sorted(found[method])
        seconds = [one["seconds"] for one in found[method].values() if one["seconds"]]
        cells = [f"{summary(seconds).mean:.0f}" if seconds else NONE]
        shared = sorted(found[method].keys() & found.get(baseline, {}).keys())
        if method != baseline and shared:
            pairs = (accuracy(baseline, shared), accuracy(method, shared))
            gain = paired_difference(*pairs)
            cells += [f"{gain.mean:+.2f}", interval(gain.low, gain.high)]
            cells += [str(gain.count)]
        else:
            cells += [NONE] * 3
        mean = mean_and_std(summary(accuracy(method, samples)))
        rows.append((method, str(len(samples)), mean, *cells))
    header = ("method", "samples", "accuracy", "processor seconds")
    return Sheet(
        name="accuracy",
        title=f"Test accuracy (%), mean ± std, and paired difference to {baseline}",
        header=(*header, "difference", "95% t", "pairs"),
        rows=tuple(rows),
    )


def signature(results: Iterable[Result]) -> str:
    """Return the signature of results from :func:`read_results`."""
    made = [one["made"] for one in results]
    settings = {
        key: ",".join(sorted({str(one[key]) for one in made}))
        for key in ("size", "set", "device", "precision")
    }
    return benchmark_signature("accuracy", settings, [one["origin"] for one in made])


def _made(data: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    files = {"data": data / MANIFEST, "encoder": arguments.encoder / "model.pt"}
    return {
        "size": arguments.size,
        "set": " ".join(f"{key}={value}" for key, value in arguments.set) or "none",
        "device": arguments.device,
        "precision": arguments.precision,
        "origin": origin({name: sha256(path) for name, path in files.items()}),
    }


def _measured(
    method: str, sample: int, data: Path, arguments: argparse.Namespace
) -> Result:
    if method in PEERS:
        return _peer(method, sample, data, arguments)
    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = _ours(method, sample, data, arguments, Path(folder))
    return {**found, "seconds": time.process_time() - start}


def _ours(
    method: str, sample: int, data: Path, arguments: argparse.Namespace, folder: Path
) -> Result:
    """Train and return correct and all test answers, and correct validation answers."""
    model, device = arguments.encoder, arguments.device
    settings = dict(arguments.set)
    if method in OURS:
        run = own_run(
            data.absolute(),
            model.absolute(),
            OURS[method],
            POOLING,
            len(read_labels(data)),
            seed=sample,
            updates=recommended_updates(arguments.size),
            learning_rate=FEW_SHOT_RATE if method == FEW_SHOT_RECIPE else 1e-4,
            max_positions=512,
            device=device,
            precision=arguments.precision,
        )
        loss = {key: settings.pop(key, value) for key, value in run.loss.items()}
        run = replace(run, loss=loss, keep_checkpoint=False, **settings)
        record = run_training(run, folder / method)
        valid, test = best_validation(record.valid), result_at_best(record)
        return _counts(valid.correct, test.correct, test.total)
    probe = probed(model, data, device, pooling=POOLING)
    return _counts(probe.valid_correct, probe.test_correct, probe.test_total)


def _counts(valid_correct: int, correct: int, total: int) -> Result:
    return {"valid_correct": valid_correct, "correct": correct, "total": total}


def _peer(
    method: str, sample: int, data: Path, arguments: argparse.Namespace
) -> Result:
    """Train with a peer in its own Python, because its pins may conflict with ours.

    Raises:
        InputError: it is not installed there, or it failed.
    """
    script = Path(__file__).with_name("accuracy_peers.py")
    command = [arguments.peer_python, str(script)]
    command += [method, str(arguments.published), str(data / "text"), str(sample)]
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if arguments.device == "cpu":
        alone["CUDA_VISIBLE_DEVICES"] = ""
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise InputError(f"{method} failed with {arguments.peer_python}: {last}")
    found: Result = json.loads(done.stdout.strip().rpartition("\n")[2])
    return found


def _setting(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    with contextlib.suppress(json.JSONDecodeError):  # the name of a batching
        return key, json.loads(value)
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Compare few-shot classifiers.",
    )
    for flag, text in (
        ("--data", "folder with data folders n100-sample0 …, as the quick start makes"),
        ("--encoder", "encoder folder, such as the quick start's"),
        ("--published", "the same encoder in Hugging Face's format, for the peers"),
        ("--to", "folder of the results"),
    ):
        parser.add_argument(flag, type=Path, required=True, help=text)
    parser.add_argument("--samples", default="0", metavar="N or N-M")
    parser.add_argument("--size", type=int, default=100, help="examples per sample")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--baseline", choices=METHODS, default="setfit")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--precision", choices=PRECISION_FLAGS, default="fp32", help="of our training"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        type=_setting,
        default=[],
        metavar="KEY=VALUE",
        help="settings of our training: updates, batch_size, scl_temperature, …",
    )
    parser.add_argument(
        "--peer-python",
        default=sys.executable,
        metavar="PYTHON",
        help="Python that has setfit, transformers and accelerate (default: this one)",
    )
    return parser


if __name__ == "__main__":
    try:
        sys.exit(main())
    except InputError as error:
        sys.exit(f"benchmarks.accuracy: {error}")
