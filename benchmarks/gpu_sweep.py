"""On a GPU: how many few-shot runs per hour do 1, 2, 4 and 8 jobs finish?

Runs ``fairseq-scl run --device cuda --jobs-per-gpu K`` on a table with N = 100 and a
generated encoder of RoBERTa-Large's shape with random weights, in fp16. Runs are short
(40 updates, 2 validations of 100 sentences) and each job does two. The figure is the
mean time of a run divided by the number of jobs. It includes loading the encoder but
not starting the workers.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.pairs import Pairs, Row, Settings, peer_module
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarize import binarize
from fairseq_scl.data.texts import Example
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.results_folder import RECORD

QUESTION = "few-shot runs on one GPU, N = 100, seconds per run"
JOBS = (1, 2, 4, 8)
RUNS_PER_JOB = 2
AT_LEAST = 3.0
SIZE, CLASSES = 100, ("negative", "positive")
# Layers, width, heads, words. The second is for rehearsals on a CPU.
LARGE, TINY = (24, 1024, 16, 30_522), (2, 64, 4, 500)
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TABLE = f"""
protocol: 1
caption: Benchmark
selection: few-shot
repetitions: {RUNS_PER_JOB * max(JOBS)}
tasks: [toy]
sizes: [{SIZE}]
losses:
  CE+SCL: {{scl_lambda: [0.9], scl_temperature: [0.3]}}
training:
  learning_rate: 1e-5
  updates: 40
  validations: 2
"""


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark.

    Raises:
        InputError: a sweep failed; the message ends with its last line of output.
        PeerMissing: transformers, which makes the encoder, is not installed.
    """
    on_gpu = torch.cuda.device_count() > 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_encoder(folder, LARGE if on_gpu else TINY)
        make_samples(folder, RUNS_PER_JOB * max(JOBS))
        (folder / "table.yaml").write_text(TABLE, "utf-8")
        jobs = JOBS if on_gpu else JOBS[:2]
        alone = _seconds(folder, 1, on_gpu)
        for count in jobs[1:]:
            seconds = _seconds(folder, count, on_gpu)
            name = f"{count} jobs per GPU, {3600 / seconds:,.0f} runs per hour"
            yield Pairs((seconds,), (alone,), "s").gain(
                QUESTION,
                f"{name}, against 1 job, {3600 / alone:,.0f}",
                AT_LEAST if count == jobs[-1] else None,
            )


def make_encoder(folder: Path, shape: tuple[int, ...]) -> None:
    """Write ``FOLDER/encoder`` with random weights."""
    transformers = peer_module("transformers", "transformers")
    layers, width, heads, words = shape
    config = transformers.BertConfig(
        vocab_size=words,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    source = folder / "bert"
    transformers.BertModel(config).save_pretrained(source)
    pieces = [*SPECIAL, *(f"word{n}" for n in range(words - len(SPECIAL)))]
    (source / "vocab.txt").write_text("\n".join(pieces) + "\n", "utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (source / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    convert_encoder(source, folder / "encoder")
    shutil.rmtree(source)


def make_samples(folder: Path, count: int) -> None:
    """Write ``count`` copies of one sample: ``FOLDER/data/toy/n100-sample0`` …."""
    draw = random.Random(0)
    lines = [
        " ".join(f"word{draw.randrange(400)}" for _ in range(draw.randint(3, 30)))
        for _ in range(3 * SIZE)
    ]
    examples = [
        Example((f"{line} word{number % 400}",), CLASSES[number % 2])
        for number, line in enumerate(lines)
    ]
    names = ("train", "valid", "test")
    splits = {n: examples[i * SIZE : (i + 1) * SIZE] for i, n in enumerate(names)}
    first = folder / "data" / "toy" / f"n{SIZE}-sample0"
    binarize(splits, folder / "encoder", first)
    for number in range(1, count):
        shutil.copytree(first, first.with_name(f"n{SIZE}-sample{number}"))


def _seconds(folder: Path, jobs: int, on_gpu: bool) -> float:
    """Return the seconds per run of a sweep with ``jobs`` jobs."""
    results = folder / f"results{jobs}"
    last = RUNS_PER_JOB * jobs - 1
    argv = [sys.executable, "-m", "fairseq_scl.cli", "run", str(folder / "table.yaml")]
    argv += ["--data", str(folder / "data"), "--model", str(folder / "encoder")]
    argv += ["--results", str(results), "--only", f"sample=0-{last}"]
    if on_gpu:
        argv += ["--device", "cuda", "--jobs-per-gpu", str(jobs), "--jobs", str(jobs)]
        argv += ["--precision", "fp16"]
    else:
        argv += ["--device", "cpu", "--jobs", str(jobs), "--set", "updates=4"]
    one_gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    done = subprocess.run(
        argv,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": one_gpu},
        capture_output=True,
        text=True,
        check=False,
    )
    records = list(results.glob(f"runs/*/{RECORD}"))
    if done.returncode or len(records) != last + 1:
        said = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise InputError(
            f"the sweep of {jobs} jobs ended with {len(records)} records: {said}"
        )
    seconds = [json.loads(path.read_text("utf-8"))["seconds"] for path in records]
    return sum(seconds) / len(seconds) / jobs
