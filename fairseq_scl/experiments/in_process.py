"""Training in this process: imports and encoder loaded once, the best state in memory.

The results are those of the printed ``fairseq-train`` command; its start-up, its
checkpoint files and those validations on the test set that nobody reads are spared.
"""

import contextlib
import functools
import gc
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fairseq import checkpoint_utils, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import train as fairseq_train
from torch import Tensor

from fairseq_scl.compat.quiet import quieten
from fairseq_scl.data.files import write_json
from fairseq_scl.experiments.records import REPRESENTATIONS
from fairseq_scl.experiments.representations import measures_of_model
from fairseq_scl.experiments.runner import LOG, Run


@functools.cache
def encoder_state(path: str) -> dict[str, Any]:
    """Load an encoder once; processes that fork afterwards share its memory."""
    state: dict[str, Any] = checkpoint_utils.load_checkpoint_to_cpu(path)
    return state


def train_here(run: Run, argv: list[str], folder: Path) -> int:
    """Run a ``fairseq-train`` command in this process, its output to ``train.log``.

    Validates on ``valid`` alone, keeps the weights that are best there in memory, and
    with these measures ``test`` once, at the end. A checkpoint is written only for a
    run that asks for it.

    Args:
        run: what the command does.
        argv: the command, from :func:`~fairseq_scl.experiments.runner.command`.
        folder: of the run.

    Returns:
        the exit status that the command would have.
    """
    with _output_to(folder / LOG):
        sys.stdout.write(shlex.join(argv) + "\n")
        try:
            _train(run, argv, folder)
        except SystemExit as exit:
            return exit.code if isinstance(exit.code, int) else 1
        except Exception:
            traceback.print_exc()
            return 1
        finally:
            # fairseq's objects hold each other, and with them the model.
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
    return 0


def _train(run: Run, argv: list[str], folder: Path) -> None:
    encoder_path = str(run.encoder / "model.pt")
    encoder = encoder_state(encoder_path)
    load, save = (
        checkpoint_utils.load_checkpoint_to_cpu,
        checkpoint_utils.save_checkpoint,
    )
    best = _Best(save if run.keep_checkpoint else None)

    def load_once(path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if path != encoder_path:
            loaded: dict[str, Any] = load(path, *args, **kwargs)
            return loaded
        # fairseq takes the dictionaries apart, but copies the tensors.
        return {**encoder, "model": dict(encoder["model"])}

    with (
        mock.patch.object(sys, "argv", argv),  # where fairseq looks for --user-dir
        mock.patch.object(checkpoint_utils, "load_checkpoint_to_cpu", load_once),
        mock.patch.object(checkpoint_utils, "save_checkpoint", best),
    ):
        parser = options.get_training_parser()
        cfg = convert_namespace_to_omegaconf(options.parse_args_and_arch(parser))
        subsets = cfg.dataset.valid_subset.split(",")
        cfg.dataset.valid_subset = subsets[0]
        fairseq_train.main(cfg)
        best.measure(cfg, subsets[1:])
    if run.representations:
        found = measures_of_model(best.trainer.model, best.trainer.task, run.data)
        write_json(folder / REPRESENTATIONS, found)


class _Best:
    """Stands for fairseq's ``save_checkpoint``: holds the best weights on the CPU."""

    def __init__(self, save: Any) -> None:
        self.save = save
        self.score: float | None = None
        self.update = 0
        self.weights: dict[str, Tensor] = {}
        self.trainer: Any = None
        self.epoch_itr: Any = None

    def __call__(
        self, cfg: Any, trainer: Any, epoch_itr: Any, score: float | None
    ) -> Any:
        """Note the weights if they are the best so far; of equal ones, the later."""
        if score is not None and (self.score is None or score >= self.score):
            self.score, self.update = score, trainer.get_num_updates()
            self.trainer, self.epoch_itr = trainer, epoch_itr
            for name, tensor in _state(trainer).items():
                if name in self.weights:
                    self.weights[name].copy_(tensor)
                else:
                    self.weights[name] = tensor.detach().to("cpu", copy=True)
        return self.save(cfg, trainer, epoch_itr, score) if self.save else None

    def measure(self, cfg: Any, subsets: list[str]) -> None:
        """Validate the best weights on further subsets."""
        trainer = self.trainer
        for name, tensor in _state(trainer).items():
            tensor.copy_(self.weights[name])
        trainer.set_num_updates(self.update)
        for subset in subsets:
            trainer.task.load_dataset(subset, combine=False, epoch=1)
        fairseq_train.validate(cfg, trainer, trainer.task, self.epoch_itr, subsets)


def _state(trainer: Any) -> dict[str, Tensor]:
    """Return all that is trained: the model's weights, and what the criterion learns.

    Validation reads both.
    """
    of_criterion = trainer.criterion.state_dict().items()
    learned = {f"criterion.{name}": tensor for name, tensor in of_criterion}
    return {**trainer.model.state_dict(), **learned}


@contextlib.contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send what this process and its libraries print to a file."""
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
