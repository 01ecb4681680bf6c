"""Sentence prediction with batches for contrast, checks and a metrics file."""

import json
from dataclasses import dataclass, field
from typing import Any

import torch.distributed
from fairseq.data import BaseWrapperDataset, SortDataset
from fairseq.tasks import register_task
from fairseq.tasks.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionTask,
)
from torch import nn

from fairseq_scl.compat import exit_on_input_error
from fairseq_scl.errors import InputError
from fairseq_scl.models.packed import LENGTHS, keep_memory, pack, right_padded_lengths
from fairseq_scl.tasks.batching import BATCHING, EpochOrderDataset
from fairseq_scl.tasks.checks import (
    check_data_folder,
    check_split,
    class_ids,
    refuse_other_checkpoints,
)


@dataclass
class SentencePredictionSCLTaskConfig(SentencePredictionConfig):
    """The stock task's options, and those of this project."""

    batching: str = field(
        default="fixed",
        metadata={
            "help": "which examples share a training batch: fixed = drawn once, the "
            "same in every epoch (stock fairseq); reshuffled = drawn anew each epoch; "
            "balanced = drawn anew, each batch with the classes in their shares of "
            "the training set"
        },
    )
    metrics_file: str = field(
        default="",
        metadata={
            "help": "append one JSON line for each validation of each subset, with "
            "exact counts and unrounded losses, to this file"
        },
    )
    packed: bool = field(
        default=False,
        metadata={
            "help": "compute the real tokens of a batch only, no padding, and in the "
            "last layer only what the head reads: the same results, faster"
        },
    )


@register_task("sentence_prediction_scl", dataclass=SentencePredictionSCLTaskConfig)
class SentencePredictionSCLTask(SentencePredictionTask):
    """Sentence (pair) classification whose batches are made to be contrasted."""

    cfg: SentencePredictionSCLTaskConfig

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SentencePredictionSCLTask":
        """Load the dictionaries, after a check that they are there."""
        with exit_on_input_error():
            check_data_folder(cfg.data, cfg.num_classes)
            if cfg.batching not in BATCHING:
                raise InputError(
                    f"--batching is {cfg.batching!r}: it must be one of "
                    f"{', '.join(BATCHING)}"
                )
        return super().setup_task(cfg, **kwargs)

    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> Any:
        """Load a split and set the order of its examples.

        The training split has it from ``--batching``; others go by length, which
        spares padding.
        """
        with exit_on_input_error():
            check_split(self.cfg.data, split)
            dataset = super().load_dataset(split, combine, **kwargs)
            if self.cfg.regression_target:
                return dataset
            plain = dataset.dataset if isinstance(dataset, SortDataset) else dataset
            labels = class_ids(plain, self.cfg.data, split, self.cfg.num_classes)
            if split.startswith("train"):  # before hours of training, not after
                self._append_metrics("")
        if not split.startswith("train"):
            dataset = SortDataset(plain, sort_order=[plain.sizes[0]])
        elif self.cfg.batching != "fixed":
            balanced = self.cfg.batching == "balanced"
            dataset = EpochOrderDataset(plain, labels, balanced, self.cfg.seed)
        if self.cfg.packed:
            dataset = _CountedDataset(dataset, self.source_dictionary.pad())
        self.datasets[split] = dataset
        return dataset

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model and have it refuse checkpoints that are not its own."""
        model = super().build_model(cfg, from_checkpoint)
        refuse_other_checkpoints(model)
        if self.cfg.packed:
            with exit_on_input_error():
                pack(model)
            if not torch.cuda.is_available():
                keep_memory()
        return model

    def dataset(self, split: str) -> Any:
        """Return a loaded split; fairseq asks for each subset before validating it."""
        self._last_asked = split
        return super().dataset(split)

    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Append what one validation measured to ``--metrics-file``."""
        distributed = torch.distributed.is_initialized()
        if not self.cfg.metrics_file or (
            distributed and torch.distributed.get_rank() > 0
        ):
            return
        line = {
            key: _number(meter.sum if key.startswith("n_") else meter.avg)
            for key, meter in agg.items()
            if key.startswith(("n_", "ce_", "scl_"))
        }
        line |= {"subset": self._last_asked, "update": int(stats["num_updates"])}
        with exit_on_input_error():
            self._append_metrics(json.dumps(line, sort_keys=True) + "\n")

    def _append_metrics(self, text: str) -> None:
        if not self.cfg.metrics_file:
            return
        try:
            with open(self.cfg.metrics_file, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise InputError(
                f"--metrics-file: cannot write {self.cfg.metrics_file}: "
                f"{error.strerror}"
            ) from error


class _CountedDataset(BaseWrapperDataset):
    """Counts tokens where a batch is collated: asking a GPU later would stall it."""

    def __init__(self, dataset: Any, pad: int) -> None:
        super().__init__(dataset)
        self.pad = pad

    def collater(self, samples: list[Any]) -> dict[str, Any]:
        batch: dict[str, Any] = super().collater(samples)
        if batch:
            tokens = batch["net_input"]["src_tokens"]
            batch["net_input"][LENGTHS] = right_padded_lengths(tokens, self.pad)
        return batch


def _number(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value
