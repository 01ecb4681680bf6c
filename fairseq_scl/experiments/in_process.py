"""In-process training: our own loop over fairseq's Trainer, without a process per run.

fairseq is imported and the encoder loaded only once. The loop updates the parameters
exactly as the printed ``fairseq-train`` command does and gives the same results; a test
compares them count by count. There are two differences: the best weights stay in memory
instead of in checkpoint files, and the test set is evaluated only once, with the best
weights, instead of at every validation.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, options, tasks, utils
from fairseq.data import iterators
from fairseq.dataclass.initialize import add_defaults
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.logging import metrics, progress_bar
from fairseq.trainer import Trainer
from fairseq_cli import train as fairseq_train
from torch import Tensor

from fairseq_scl import device
from fairseq_scl.compat.quiet import quieten
from fairseq_scl.data.files import write_json
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.command import Run
from fairseq_scl.experiments.frozen import fit_head_of_model, measures_of_model
from fairseq_scl.experiments.results_folder import BEST, LOG, REPRESENTATIONS
from fairseq_scl.inference.trained_format import FITTED_HEAD
from fairseq_scl.typed import AFTER, BEFORE

logger = logging.getLogger(__name__)


@functools.cache
def encoder_state(path: str) -> dict[str, Any]:
    """Load an encoder once; processes forked afterwards share its memory."""
    state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(path)
    return state


def prepare_forks(runs: Sequence[Run]) -> None:
    """Load the encoders, and what each fork would import itself, in shared memory.

    The first optimizer of a process imports ``torch._dynamo``, which takes 2 seconds.
    """
    for path in sorted({str(run.encoder / "model.pt") for run in runs}):
        encoder_state(path)
    importlib.import_module("torch._dynamo")


def train_here(run: Run, argv: list[str], folder: Path) -> int:
    """Run the ``fairseq-train`` command of a run in this process.

    Its folder gets ``train.log``, the metrics of the command's ``--metrics-file`` and,
    if the run keeps it, the best checkpoint.

    Returns:
        the exit status that the command would have.
    """
    with _output_to(folder / LOG):
        sys.stdout.write(shlex.join(argv) + "\n")
        try:
            _train(run, argv[1:], folder)
        except InputError as error:
            sys.stderr.write(f"fairseq-scl: error: {error}\n")
            return 2
        except SystemExit as exit:
            return exit.code if isinstance(exit.code, int) else 1
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            # fairseq's objects reference each other and keep the model alive.
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
    return 0


def _train(run: Run, arguments: list[str], folder: Path) -> None:
    if run.device != "cpu":
        device.check_cuda()  # fairseq would train on the CPU
    cfg = _parse(arguments)
    metrics.reset()
    np.random.seed(cfg.common.seed)
    utils.set_torch_seed(cfg.common.seed)
    task = tasks.setup_task(cfg.task)
    model, criterion = task.build_model(cfg.model), task.build_criterion(cfg.criterion)
    checkpoint = folder / BEST if run.keep_checkpoint else None
    fitted_head = run.regression_head is not None
    trainer = _Trainer(cfg, task, model, criterion, checkpoint, fitted_head)
    trainer.start_from(encoder_state(str(run.encoder / "model.pt")))
    valid, *others = cfg.dataset.valid_subset.split(",")
    task.load_dataset(valid, combine=False, epoch=1)
    epoch_itr = trainer.get_train_iterator(epoch=1)
    if run.regression_head == BEFORE:  # before the optimizer copies the weights
        fit_head_of_model(trainer.model, task, run)
    trainer.lr_step(epoch_itr.epoch)
    while trainer.get_num_updates() < cfg.optimization.max_update:
        _train_epoch(run, cfg, trainer, epoch_itr, valid)
        trainer.lr_step(epoch_itr.epoch)
        next_epoch = epoch_itr.next_epoch_idx
        epoch_itr = trainer.get_train_iterator(next_epoch, load_dataset=False)
    logger.info("done training")
    trainer.return_to_best()
    for subset in others:
        task.load_dataset(subset, combine=False, epoch=1)
    fairseq_train.validate(cfg, trainer, task, epoch_itr, others)
    if run.representations:
        found = measures_of_model(trainer.model, task, run.data)
        write_json(folder / REPRESENTATIONS, found)


def _parse(arguments: list[str]) -> Any:
    """Return the configuration that ``fairseq-train`` builds from its arguments."""
    user_dir = arguments[arguments.index("--user-dir") + 1]
    # Must precede the parser, whose choices are the registered classes.
    utils.import_user_module(argparse.Namespace(user_dir=user_dir))
    parser = options.get_training_parser()
    known = options.parse_args_and_arch(parser, input_args=arguments)
    cfg = convert_namespace_to_omegaconf(known)
    add_defaults(cfg)
    return cfg


@metrics.aggregate("train")
def _train_epoch(
    run: Run, cfg: Any, trainer: "_Trainer", epoch_itr: Any, subset: str
) -> None:
    """Train for an epoch or until ``max_update``, with validations in between.

    With a regression head after training, fit it at the end and validate only then.
    """
    shuffle = epoch_itr.next_epoch_idx > cfg.dataset.curriculum
    batches = iterators.GroupedIterator(epoch_itr.next_epoch_itr(shuffle=shuffle), 1)
    progress = progress_bar.progress_bar(
        batches,
        log_format=cfg.common.log_format,
        log_interval=cfg.common.log_interval,
        epoch=epoch_itr.epoch,
    )
    trainer.begin_epoch(epoch_itr.epoch)
    for samples in progress:
        with metrics.aggregate("train_inner"):
            if trainer.train_step(samples) is None:  # the loss scale overflowed
                continue
        update = trainer.get_num_updates()
        if update % cfg.common.log_interval == 0:
            stats = metrics.get_smoothed_values("train_inner")
            progress.log(stats, tag="train_inner", step=update)
            metrics.reset_meters("train_inner")
        is_last = update >= cfg.optimization.max_update
        if is_last and run.regression_head == AFTER:
            fit_head_of_model(trainer.model, trainer.task, run)
        is_due = update % cfg.dataset.validate_interval_updates == 0
        if is_last or (is_due and run.regression_head != AFTER):
            scores = fairseq_train.validate(
                cfg, trainer, trainer.task, epoch_itr, [subset]
            )
            trainer.keep_if_best(scores[0], epoch_itr)
        if is_last:
            break
    stats = metrics.get_smoothed_values("train")
    progress.print(stats, tag="train", step=trainer.get_num_updates())
    metrics.reset_meters("train")


class _Trainer(Trainer):
    """fairseq's Trainer, but starts from weights in memory and keeps the best ones."""

    def __init__(
        self,
        cfg: Any,
        task: Any,
        model: Any,
        criterion: Any,
        checkpoint: Path | None,
        fitted_head: bool,
    ) -> None:
        super().__init__(cfg, task, model, criterion)
        self._checkpoint = checkpoint
        self._fitted_head = fitted_head
        self._best_score = -float("inf")
        self._best_update = 0
        self._best_weights: dict[str, Tensor] = {}

    def start_from(self, state: dict[str, Any]) -> None:
        """Load a checkpoint from memory, as ``--restore-file --reset-…`` does."""
        # A shallow copy is enough: loading modifies the dictionary, not the tensors.
        weights = dict(state["model"])
        self.model.load_state_dict(weights, strict=True, model_cfg=self.cfg.model)
        if utils.has_parameters(self.get_criterion()):
            self.get_criterion().load_state_dict(state["criterion"], strict=True)

    def keep_if_best(self, score: float, epoch_itr: Any) -> None:
        """Keep the current weights if their score is the best so far or equal to it."""
        if score < self._best_score:
            return
        self._best_score, self._best_update = score, self.get_num_updates()
        for name, tensor in self._trained().items():
            if name in self._best_weights:
                self._best_weights[name].copy_(tensor)
            else:
                self._best_weights[name] = tensor.detach().to("cpu", copy=True)
        if self._checkpoint is not None:
            extra = {"train_iterator": epoch_itr.state_dict(), "val_loss": score}
            extra[FITTED_HEAD] = self._fitted_head
            self.save_checkpoint(str(self._checkpoint), extra)

    def return_to_best(self) -> None:
        """Restore the best weights of the model and the criterion."""
        for name, tensor in self._trained().items():
            tensor.copy_(self._best_weights[name])
        self.set_num_updates(self._best_update)

    def _trained(self) -> dict[str, Tensor]:
        """Return the state of the model and of the criterion; validation needs both."""
        state: dict[str, Tensor] = dict(self.model.state_dict())
        for name, tensor in self.criterion.state_dict().items():
            state[f"criterion.{name}"] = tensor
        return state


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Redirect the output of this process and its libraries to a file."""
    logger = logging.getLogger()
    level, handlers = logger.level, logger.handlers[:]
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(path, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with (
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
            warnings.catch_warnings(),
        ):
            logging.basicConfig(level=logging.INFO, stream=file, force=True)
            quieten()
            try:
                yield
            finally:
                file.flush()
                for number, stream in zip(saved, (1, 2), strict=True):
                    os.dup2(number, stream)
                    os.close(number)
                logger.setLevel(level)
                logger.handlers[:] = handlers
