"""A run as data, and the equivalent ``fairseq-train`` command."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fairseq_scl
from fairseq_scl.convert.pooling import Pooling
from fairseq_scl.data.binarize import fairseq_flags
from fairseq_scl.experiments.architecture import architecture_flags
from fairseq_scl.experiments.results_folder import METRICS
from fairseq_scl.typed import RegressionHead

# fairseq's published GLUE recipe with the paper's Adam and dropout (section 4.1).
RECIPE = (
    *("--dropout", "0.1", "--attention-dropout", "0.1"),
    *("--optimizer", "fused_adam", "--adam-betas", "(0.9, 0.98)"),
    *("--adam-eps", "1e-06", "--weight-decay", "0.1", "--clip-norm", "0"),
)
WARM_UP = 0.06  # fraction of the updates; the learning rate then decays linearly to 0
PRECISION_FLAGS = {
    "fp32": (),
    "tf32": ("--tf32",),
    "fp16": (  # the loss scale of fairseq's published GLUE recipe
        *("--fp16", "--fp16-init-scale", "4", "--threshold-loss-scale", "1"),
        *("--fp16-scale-window", "128"),
    ),
    "bf16": ("--bf16",),
}


@dataclass(frozen=True)
class Run:
    """One fine-tuning run; every field except the folders affects the result.

    Attributes:
        name: unique within an experiment; also the name of the run's folder.
        data: a data folder with ``train``, ``valid`` and ``test``.
        encoder: an encoder folder.
        loss: ``criterion`` and its options, named as in its dataclass
            (``scl_lambda``); options that are left out have the criterion's default.
        seed: for the initial head, the batches and dropout.
        updates: number of parameter updates.
        validations: most validations; see :attr:`validate_every`.
        batch_size: sentences in a batch, all contrasted with each other.
        chunk: sentences computed at a time in a larger batch (gradient caching);
            ``None`` for all.
        learning_rate: peak learning rate.
        batching: ``fixed``, ``reshuffled`` or ``balanced``.
        max_positions: longest input in tokens; longer inputs are truncated.
        head_pooling: what the classification head reads: ``cls``, the state at ``<s>``
            as in the paper, or ``mean``, the mean over the tokens.
        device: ``cpu`` or ``cuda``.
        keep_checkpoint: keep the best checkpoint after the run.
        packed: skip padding tokens, see docs/training.md; the results are the same.
        precision: ``fp32``, ``tf32``, ``bf16``, or ``fp16`` with loss scaling.
        max_valid_steps: batches per validation; ``None`` for all of them.
        representations: measure the features of the test examples with the best model.
            Only in-process training does this, the printed command does not.
        regression_head: ``before`` or ``after`` training, replace the classification
            head by a logistic regression on the training examples, see
            :mod:`~fairseq_scl.inference.regression_head`; if ``after``, the only
            validation follows. Only in-process training does this, the printed command
            does not.
        cuda_graphs: use ``--cuda-graphs`` on a GPU in half precision, except in chunks
            and with ``head_pooling`` mean.
        user_dir: folder that registers the criterion; ``None`` for this package.
        cell: the run's place in its table: task, n, loss and so on.
    """

    name: str
    data: Path
    encoder: Path
    loss: dict[str, Any]
    seed: int
    updates: int
    validations: int = 4
    batch_size: int = 16
    chunk: int | None = None
    learning_rate: float = 1e-5
    batching: str = "fixed"
    max_positions: int = 512
    head_pooling: Pooling = "cls"
    device: str = "cpu"
    keep_checkpoint: bool = False
    packed: bool = True
    precision: str = "fp32"
    max_valid_steps: int | None = None
    representations: bool = False
    regression_head: RegressionHead | None = None
    cuda_graphs: bool = False
    user_dir: Path | None = None
    cell: dict[str, Any] = field(default_factory=dict)

    @property
    def validate_every(self) -> int:
        """The number of updates between two validations.

        The last validation follows the last update, perhaps sooner after the one
        before. It is rounded up, so that there are at most ``validations``.
        """
        return max(1, math.ceil(self.updates / self.validations))


def command(run: Run, folder: Path) -> list[str]:
    """Return the ``fairseq-train`` command of a run.

    Optimization is :data:`RECIPE` with polynomial decay. The command validates on both
    ``valid`` and ``test`` and keeps the checkpoint that is best on ``valid``.
    """
    every = run.validate_every
    user_dir = run.user_dir or Path(fairseq_scl.__file__).parent
    options = ["--packed"] if run.packed else []
    if run.chunk is not None and run.chunk < run.batch_size:
        options += ["--contrastive-batch", str(run.batch_size)]
        options += ["--chunk", str(run.chunk)]
    elif run.cuda_graphs and run.device == "cuda" and run.head_pooling == "cls":
        options += ["--cuda-graphs"] if run.precision in ("fp16", "bf16") else []
    if run.max_valid_steps is not None:
        options += ["--max-valid-steps", str(run.max_valid_steps)]
    # By default fairseq trains one run on all visible GPUs.
    options += ["--distributed-world-size", "1", *PRECISION_FLAGS[run.precision]]
    options += ["--cpu"] if run.device == "cpu" else []
    return [
        *["fairseq-train", str(run.data), "--user-dir", str(user_dir)],
        *["--restore-file", str(run.encoder / "model.pt")],
        *["--reset-optimizer", "--reset-dataloader", "--reset-meters"],
        *["--task", "sentence_prediction_scl", *fairseq_flags(run.data)],
        *["--batching", run.batching, "--metrics-file", str(folder / METRICS)],
        *["--shorten-method", "truncate", *loss_flags(run.loss)],
        *architecture_flags(run.encoder, run.max_positions, run.head_pooling),
        *RECIPE,
        *["--lr", str(run.learning_rate), "--lr-scheduler", "polynomial_decay"],
        *["--warmup-updates", str(round(WARM_UP * run.updates))],
        *["--total-num-update", str(run.updates), "--max-update", str(run.updates)],
        *["--seed", str(run.seed)],
        *["--batch-size", str(run.batch_size), "--required-batch-size-multiple", "1"],
        *["--batch-size-valid", "64", "--valid-subset", "valid,test"],
        *["--validate-interval", "1000000", "--validate-interval-updates", str(every)],
        *["--save-interval", "1000000", "--save-interval-updates", str(every)],
        *["--keep-interval-updates", "1", "--no-epoch-checkpoints"],
        *["--no-last-checkpoints", "--no-save-optimizer-state"],
        *["--best-checkpoint-metric", "n_correct", "--maximize-best-checkpoint-metric"],
        *["--save-dir", str(folder)],
        # Starting a loader process in each epoch would cost more than it saves.
        *["--num-workers", "0"],
        *["--log-format", "simple", "--log-interval", "10"],
        *options,
    ]


def loss_flags(loss: Mapping[str, Any]) -> list[str]:
    """Return the ``fairseq-train`` flags for a criterion and its options."""
    flags = []
    for key, value in loss.items():
        flag = f"--{key.replace('_', '-')}"
        if value is not False:
            flags += [flag] if value is True else [flag, str(value)]
    return flags
