"""Toy data folders, toy models and fast ways to run fairseq's commands on them.

Importing fairseq takes a few seconds. ``train`` imports it in a new process, like a
user; ``train_fast`` runs the same command in a fork that has already imported it.
"""

import functools
import importlib
import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from fairseq import options
from fairseq.data import Dictionary, indexed_dataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import setup_task

import fairseq_scl
from fairseq_scl.compat.checkpoints import load_checkpoint
from helpers import composing
from helpers.fresh import run_fresh

RESET = ["--reset-optimizer", "--reset-dataloader", "--reset-meters"]
USER_DIR = str(Path(fairseq_scl.__file__).parent)
SIZES = {"train": 20, "valid": 10, "test": 10}
WORDS_A_CLASS = 5
# The choices in the command of a table's run.
OF_A_RUN = ["--optimizer", "fused_adam", "--lr-scheduler", "polynomial_decay"]
OF_A_RUN += ["--total-num-update", "1"]

composing.replace_hydra()


def make_data(
    folder: str | Path,
    sizes: Mapping[str, int] = SIZES,
    classes: int = 2,
    pairs: bool = False,
    seed: int = 0,
    weights: Sequence[float] | None = None,
    words: int | None = None,
) -> Path:
    """Write a data folder in fairseq's binary format with easily separable classes.

    Sentences have 1 to 8 words, half of them from the words of their class. Classes
    are named ``label0``, ``label1`` …, in the order of the label dictionary, and drawn
    with ``weights`` (uniform by default).

    Returns:
        the folder.
    """
    folder = Path(folder)
    random = np.random.default_rng(seed)
    dictionary = Dictionary()
    for word in range(words or WORDS_A_CLASS * (classes + 1)):
        dictionary.add_symbol(f"word{word}", 100 - word)
    labels = Dictionary()
    for label in range(classes):
        labels.add_symbol(f"label{label}", 10)
    share = np.array(weights if weights is not None else [1.0] * classes, float)
    for part in ("input0", "input1", "label") if pairs else ("input0", "label"):
        (folder / part).mkdir(parents=True)
        (labels if part == "label" else dictionary).save(
            str(folder / part / "dict.txt")
        )
    for split, size in sizes.items():
        ids = random.choice(classes, size=size, p=share / share.sum())
        for part in ("input0", "input1") if pairs else ("input0",):
            rows = [_sentence(label, classes, random) for label in ids]
            write_rows(folder / part / split, rows, dictionary)
        write_rows(
            folder / "label" / split, [[i + labels.nspecial] for i in ids], labels
        )
    return folder


def write_rows(
    path: Path, rows: Sequence[Sequence[int]], dictionary: Dictionary
) -> None:
    """Write token ids to ``path.bin`` and ``path.idx``; each row ends in ``</s>``."""
    builder = indexed_dataset.make_builder(
        f"{path}.bin", impl="mmap", vocab_size=len(dictionary)
    )
    for row in rows:
        builder.add_item(torch.IntTensor([*row, dictionary.eos()]))
    builder.finalize(f"{path}.idx")


def _sentence(label: int, classes: int, random: np.random.Generator) -> list[int]:
    telling = WORDS_A_CLASS * label + random.integers(WORDS_A_CLASS, size=8)
    common = WORDS_A_CLASS * classes + random.integers(WORDS_A_CLASS, size=8)
    words = np.where(random.random(8) < 0.5, telling, common)
    return [int(word) + 4 for word in words[: random.integers(1, 9)]]


def toy_arch_flags() -> list[str]:
    """Return the flags of a RoBERTa with two layers, 16 dimensions and 32 positions."""
    return [
        *["--arch", "roberta_base", "--max-positions", "32"],
        *["--encoder-layers", "2", "--encoder-attention-heads", "2"],
        *["--encoder-embed-dim", "16", "--encoder-ffn-embed-dim", "32"],
    ]


def command_line(arguments: Sequence[str | Path]) -> list[str]:
    """Add toy defaults before the arguments, which override them."""
    return [
        *["--user-dir", USER_DIR, *toy_arch_flags()],
        *["--task", "sentence_prediction_scl", "--num-classes", "2"],
        *["--init-token", "0", "--criterion", "sentence_prediction_scl"],
        *["--optimizer", "adam", "--lr", "0.003", "--max-epoch", "2"],
        *["--batch-size", "4", "--required-batch-size-multiple", "1"],
        *["--num-workers", "0", "--log-format", "json", "--log-interval", "1"],
        *["--no-epoch-checkpoints", "--cpu"],
        *[str(argument) for argument in arguments],
    ]


def train(arguments: Sequence[str | Path]) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m fairseq_cli.train`` with toy defaults and ``arguments``."""
    return run_module("fairseq_cli.train", command_line(arguments))


def run_module(
    module: str, arguments: Sequence[str], cwd: Path | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run ``python -m MODULE ARGUMENTS`` for a module of ``fairseq_cli``."""
    return run_fresh(f"import {module}; {module}.cli_main()", *arguments, cwd=cwd)


def train_fast(arguments: Sequence[str | Path]) -> "subprocess.CompletedProcess[str]":
    """Like ``train``, in a new process that already has fairseq imported."""
    return run_fast("fairseq_cli.train", command_line(arguments))


def trained_checkpoint(data: str | Path, folder: Path, *flags: str | Path) -> Path:
    """Train with ``train_fast`` to the end; return the last checkpoint."""
    done = train_fast([data, "--save-dir", folder, *flags])
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "checkpoint_last.pt"


class Terminal(io.StringIO):
    """Replaces stderr: progress bars only show on a terminal."""

    def isatty(self) -> bool:
        """Pretend to be a terminal."""
        return True


def stock_checkpoint(data: str | Path, folder: Path) -> Path:
    """Train an update of the stock criterion; its file, with large weights drawn."""
    flags = ["--criterion", "sentence_prediction", "--max-update", "1"]
    file = trained_checkpoint(data, folder, *flags)
    state = load_checkpoint(file)
    del state["criterion"]
    model = toy_model([data, *flags]).model
    draw_weights(model)
    state["model"] = model.state_dict()
    torch.save(state, file)
    return file


def run_fast(module: str, arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    """Like ``run_module`` in a process that already has fairseq imported."""
    return start_fast(run_command, module, arguments).wait()


@dataclass
class Running:
    """A forked process; ``wait`` returns it as a completed process."""

    process: Any
    output: tempfile.TemporaryDirectory[str]

    def wait(self) -> "subprocess.CompletedProcess[str]":
        """Wait until the process ends; return its status and output."""
        self.process.join(300)
        if self.process.is_alive():
            self.process.kill()
            raise TimeoutError(self.process.name)
        out, err = (Path(self.output.name, name).read_text() for name in ("out", "err"))
        self.output.cleanup()
        return subprocess.CompletedProcess([], self.process.exitcode, out, err)


def start_fast(function: Callable[..., None], *arguments: Any) -> Running:
    """Call a function of a module in a new process, without waiting for it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.warm"])
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(sys.path)}):
        forkserver.ensure_running()
    output = tempfile.TemporaryDirectory()
    process = context.Process(target=_run, args=(output.name, function, *arguments))
    process.start()
    return Running(process, output)


def run_command(module: str, arguments: list[str]) -> None:
    """Run a module of ``fairseq_cli`` in this process like its command line."""
    sys.argv = [module, *arguments]
    importlib.import_module(module).cli_main()


def _run(output: str, function: Callable[..., None], *arguments: Any) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(output, name), os.O_WRONLY | os.O_CREAT), stream)
    torch.set_num_threads(1)
    function(*arguments)


@dataclass
class Toy:
    """The objects that ``fairseq-train`` builds from a command line before training."""

    cfg: Any
    task: Any
    model: Any
    criterion: Any

    def with_settings(self, **settings: Any) -> Any:
        """Build the same criterion with other settings."""
        cfg = SimpleNamespace(**{**self.cfg.criterion, **settings})
        return type(self.criterion)(cfg, self.task)

    def batch(self, size: int = 8, split: str = "train") -> dict[str, Any]:
        """Collate the first ``size`` examples of a split."""
        if split not in self.task.datasets:
            self.task.load_dataset(split)
        data = self.task.dataset(split)
        return data.collater([data[i] for i in range(size)])


def toy_model(arguments: Sequence[str | Path], seed: int = 0) -> Toy:
    """Build task, model and criterion in this process, in the same way as fairseq."""
    data, *flags = arguments
    cfg = configure(data, command_line(["data", *flags]))
    task = setup_task(cfg.task)
    torch.manual_seed(seed)
    model = task.build_model(cfg.model)
    return Toy(cfg, task, model, task.build_criterion(cfg.criterion))


def draw_weights(model: Any) -> None:
    """Draw weights so large that texts differ in their features.

    With those that fairseq draws, all texts have nearly the same.
    """
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(0, 0.3)


def configure(data: str | Path, line: Sequence[str]) -> Any:
    """Return the configuration of a command line, with its data folder replaced.

    So command lines that differ in nothing but the folder share their settings.
    """
    cfg = pickle.loads(settings(tuple(line)))
    for part in (cfg.task, cfg.model):
        if hasattr(part, "data"):
            part.data = str(data)
    return cfg


@functools.cache  # takes longer than to build everything from it
def settings(arguments: tuple[str, ...]) -> bytes:
    """Return the pickled configuration that fairseq makes of a command line."""
    parser = options.get_training_parser()
    known = options.parse_args_and_arch(parser, input_args=list(arguments))
    with warnings.catch_warnings():  # fairseq calls Hydra by deprecated names
        warnings.simplefilter("ignore")
        return pickle.dumps(convert_namespace_to_omegaconf(known))
