"""Sentence prediction with contrastive batches, data checks and a metrics file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch.distributed
from fairseq.data import SortDataset
from fairseq.logging import metrics
from fairseq.tasks import register_task
from fairseq.tasks.sentence_prediction import (
    SentencePredictionConfig,
    SentencePredictionTask,
)
from numpy.typing import NDArray
from omegaconf import II
from torch import nn

from fairseq_scl.compat.input_errors import exit_on_input_error
from fairseq_scl.criterions.checks import check_choice, option
from fairseq_scl.criterions.protocol import IGNORED, ContrastiveCriterion
from fairseq_scl.device import allow_tf32
from fairseq_scl.errors import InputError
from fairseq_scl.input_format import note_input_format
from fairseq_scl.large_batch import gradient_cache
from fairseq_scl.models.features import unwrapped
from fairseq_scl.packing.encoder import pack
from fairseq_scl.packing.memory import keep_memory
from fairseq_scl.rows import load_dictionary
from fairseq_scl.tasks.batching import BATCHING, CountedDataset, EpochOrderDataset
from fairseq_scl.tasks.checks import (
    check_cuda_graphs,
    check_data_folder,
    check_loaded_weights,
    check_max_tokens,
    check_numbers,
    check_sizes,
    check_split,
    class_ids,
    settle_tokens,
)
from fairseq_scl.tasks.counts import (
    answers_of,
    append_metrics,
    check_divergence,
    check_validation,
    counted_answers,
    log_counts,
    number_classes,
)
from fairseq_scl.tasks.views import ViewsDataset, load_views


@dataclass
class SentencePredictionSCLTaskConfig(SentencePredictionConfig):
    """The options of the stock task and of this package."""

    batching: str = option(
        "fixed",
        "which examples share a training batch: fixed = drawn once, the same in every "
        "epoch (stock fairseq); reshuffled = drawn in each epoch; balanced = drawn in "
        "each epoch, each batch with the classes in their shares of the training set",
    )
    metrics_file: str = option(
        "",
        "append one JSON line per validation and subset to this file, with exact "
        "counts and unrounded losses",
    )
    packed: bool = option(
        False,
        "skip padding, and in the last layer compute only what the head reads: the "
        "same results, faster",
    )
    cuda_graphs: bool = option(
        False,
        "with --packed on a GPU in half precision: launch all kernels of a training "
        "pass at once; the same results, several times faster for small batches",
    )
    contrastive_batch: Optional[int] = option(  # noqa: UP045  (fairseq reads this form)
        None,
        "number of examples in a training batch (per worker); --batch-size then "
        "applies only to validation",
    )
    chunk: int = option(
        0,
        "gradient caching: compute a training batch in chunks of this many examples; "
        "same results with the memory of one chunk, at the cost of a second forward "
        "pass; 0 = off",
    )
    tf32: bool = option(
        False,
        "multiply float32 matrices in TF32 (on GPUs of compute capability 8.0 or "
        "higher): faster, with 10 bits of mantissa",
    )
    train_subset: str = II("dataset.train_subset")


@register_task("sentence_prediction_scl", dataclass=SentencePredictionSCLTaskConfig)
class SentencePredictionSCLTask(SentencePredictionTask):
    """Classification of sentences and pairs with contrastive batches."""

    cfg: SentencePredictionSCLTaskConfig
    encoder_embed_dim = 0  # see criterions/protocol.py
    loads_views = False  # the criterion's scl_views

    @classmethod
    @exit_on_input_error()
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SentencePredictionSCLTask":
        """Check the data folder and the settings, then load the dictionaries."""
        check_data_folder(cfg.data, cfg.num_classes)
        check_choice(cfg, "batching", BATCHING)
        _check_batch(cfg.contrastive_batch, cfg.chunk)
        settle_tokens(cfg)
        for part in ("input0", "label"):  # our error messages instead of fairseq's
            load_dictionary(Path(cfg.data, part, "dict.txt"))
        allow_tf32("tf32" if cfg.tf32 else "fp32")
        task: SentencePredictionSCLTask = super().setup_task(cfg, **kwargs)
        if not cfg.regression_target:  # has no labels and cannot be exported
            note_input_format(task)
        return task

    @exit_on_input_error()
    def load_dataset(self, split: str, combine: bool = False, **kwargs: Any) -> Any:
        """Load a split and set the order of its examples.

        ``--batching`` sets the order of the training split. Other splits are sorted by
        length, which reduces padding.
        """
        check_split(self.cfg.data, split, len(self.source_dictionary))
        if self.cfg.regression_target:
            check_numbers(self.cfg.data, split)
        dataset = super().load_dataset(split, combine, **kwargs)
        if self.cfg.regression_target:
            return dataset
        plain = dataset.dataset if isinstance(dataset, SortDataset) else dataset
        labels = class_ids(plain, self.cfg.data, split, self.cfg.num_classes)
        trains = split == self.cfg.train_subset
        if trains:  # fail before hours of training, not after
            append_metrics(self.cfg.metrics_file, {})
        if trains and self.loads_views:
            views = load_views(self, split, len(plain))
            plain = ViewsDataset(plain, views, self.source_dictionary.pad())
            if isinstance(dataset, SortDataset):
                dataset = SortDataset(plain, sort_order=dataset.sort_order)
            else:
                dataset = plain
        if not trains:
            dataset = SortDataset(plain, sort_order=[plain.sizes[0]])
        elif self.cfg.batching != "fixed":
            balanced = self.cfg.batching == "balanced"
            dataset = EpochOrderDataset(plain, labels, balanced, self.cfg.seed)
        if self.cfg.packed:
            dataset = CountedDataset(dataset, self.source_dictionary.pad())
        self.datasets[split] = dataset
        return dataset

    @exit_on_input_error()
    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> nn.Module:
        """Build the model and make it refuse checkpoints that do not match."""
        model = super().build_model(cfg, from_checkpoint)
        check_loaded_weights(model)
        self.encoder_embed_dim = int(model.args.encoder_embed_dim)
        if self.cfg.chunk and (reason := gradient_cache.unsupported(model)):
            raise InputError(f"--chunk cannot be combined with {reason}")
        if self.cfg.cuda_graphs:
            check_cuda_graphs(self.cfg, model)
        if self.cfg.packed:
            pack(model, self.cfg.cuda_graphs)
            if not torch.cuda.is_available():
                keep_memory()
        return model

    @exit_on_input_error()
    def build_criterion(self, cfg: Any) -> Any:
        """Build the criterion; ``--chunk`` needs a ``ContrastiveCriterion``."""
        criterion = super().build_criterion(cfg)
        if not self.cfg.regression_target:
            number_classes(criterion, self.label_dictionary.symbols)
        if isinstance(criterion, ContrastiveCriterion):
            self.loads_views = criterion.scl_views
        elif self.cfg.chunk:
            raise InputError(
                "--chunk needs --criterion sentence_prediction_scl, not "
                f"{type(criterion).__name__}"
            )
        return criterion

    @exit_on_input_error()
    def get_batch_iterator(self, dataset: Any, **kwargs: Any) -> Any:
        """Split a dataset into batches; the training set by ``--contrastive-batch``.

        Every example is used: stock fairseq drops those that do not fill a multiple of
        8.
        """
        size = self.cfg.contrastive_batch
        kwargs["required_batch_size_multiple"] = 1
        if size is not None and self._split(dataset) == self.cfg.train_subset:
            if kwargs.get("max_tokens") is not None:
                raise InputError(
                    f"--max-tokens is {kwargs['max_tokens']}: it cannot be combined "
                    "with --contrastive-batch, which counts examples; use --batch-size "
                    "for validation"
                )
            kwargs["max_sentences"] = size
        if kwargs.get("max_tokens") is not None and (split := self._split(dataset)):
            check_max_tokens(dataset, kwargs["max_tokens"], self.cfg.data, split)
        found = super().get_batch_iterator(dataset, **kwargs)
        # Otherwise the workers of every epoch stay until the garbage collector finds
        # them, which then waits 5 seconds for each.
        kept = not kwargs.get("disable_iterator_cache")
        found.persistent_workers &= kept and self.can_reuse_epoch_itr(dataset)
        return found

    @exit_on_input_error()
    def filter_indices_by_size(
        self,
        indices: NDArray[np.int64],
        dataset: Any,
        max_positions: Any = None,
        ignore_invalid_inputs: bool = False,
    ) -> Any:
        """Refuse examples that are too long, or skip them if asked to."""
        if not ignore_invalid_inputs and (split := self._split(dataset)):
            check_sizes(dataset, indices, max_positions, self.cfg.data, split)
        return super().filter_indices_by_size(
            indices, dataset, max_positions, ignore_invalid_inputs
        )

    @exit_on_input_error()
    def train_step(
        self,
        sample: dict[str, Any],
        model: nn.Module,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Run forward and backward for one batch, in chunks with ``--chunk``."""
        chunk = self.cfg.chunk
        cached = 0 < chunk < len(sample["target"])
        if ignore_grad:
            sample = {**sample, IGNORED: True}
        check_divergence(update_num)
        if isinstance(inner := unwrapped(criterion), ContrastiveCriterion):
            inner.before_update(model, update_num)
        if not cached or ignore_grad:
            if cached:  # its gradient is multiplied by 0, so one chunk is enough
                sample = gradient_cache.first_examples(sample, chunk)
            return super().train_step(
                sample, model, criterion, optimizer, update_num, ignore_grad
            )
        model.train()
        model.set_num_updates(update_num)  # type: ignore[operator]
        return gradient_cache.cached_step(sample, model, criterion, optimizer, chunk)

    def _split(self, dataset: Any) -> str:
        """Return the name of a loaded split, ``""`` for any other dataset."""
        known = (s for s, loaded in self.datasets.items() if loaded is dataset)
        return next(known, "")

    def valid_step(self, sample: Any, model: Any, criterion: Any) -> Any:
        """Compute the loss of a validation batch and count the predictions."""
        answers: dict[str, Any] = {}
        head = self.cfg.classification_head_name
        with counted_answers(model, head, sample["target"], answers):
            loss, size, log = super().valid_step(sample, model, criterion)
        return loss, size, log | answers

    def reduce_metrics(self, logging_outputs: list[Any], criterion: Any) -> None:
        """Log the criterion's metrics and, for any criterion, exact counts."""
        with metrics.aggregate() as counted:
            super().reduce_metrics(logging_outputs, criterion)
        log_counts(logging_outputs, counted)

    def dataset(self, split: str) -> Any:
        """Return a loaded split and remember it: fairseq validates it next."""
        self._last_asked = split
        return super().dataset(split)

    @exit_on_input_error()
    def post_validate(self, model: nn.Module, stats: dict[str, Any], agg: Any) -> None:
        """Store the counts of a validation and append to ``--metrics-file``."""
        subset, update = self._last_asked, int(stats["num_updates"])
        distributed = torch.distributed.is_initialized()
        check_validation(agg, subset, update)
        answers = answers_of(agg)
        if answers:  # for 'export'
            seen = self.state.state_dict.get("answers", {})
            self.state.merge_state_dict({"answers": {**seen, subset: answers}})
        if not distributed or torch.distributed.get_rank() == 0:
            more = {"answers": answers} if answers else {}
            path = self.cfg.metrics_file
            append_metrics(path, agg, subset=subset, update=update, **more)


def _check_batch(contrastive_batch: int | None, chunk: int) -> None:
    if contrastive_batch is not None and contrastive_batch < 1:
        raise InputError(
            f"--contrastive-batch is {contrastive_batch}: it must be at least 1"
        )
    if chunk < 0:
        raise InputError(f"--chunk is {chunk}: it must be 0 (off) or above")
    if chunk and contrastive_batch is None:
        raise InputError(
            f"--chunk is {chunk}, but --contrastive-batch is missing: set it to the "
            "number of examples in the batch that is split into chunks"
        )
