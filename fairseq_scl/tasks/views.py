"""Two augmented views of each training example, for Eq. 4 of Gunel et al. (2021)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.data import (
    BaseWrapperDataset,
    ConcatSentencesDataset,
    PrependTokenDataset,
    data_utils,
)
from fairseq.data.shorten_dataset import maybe_shorten_dataset

from fairseq_scl.criterions.protocol import WITH_VIEWS
from fairseq_scl.errors import InputError
from fairseq_scl.rows import VIEWS, open_rows


class ViewsDataset(BaseWrapperDataset):
    """A training set whose batches carry the views of their examples.

    In addition to ``net_input`` with N examples, a batch has ``with_views``, an input
    of 3N rows for a single forward pass: the examples, then their first views, then
    their second views.
    """

    def __init__(self, dataset: Any, views: Sequence[Any], pad: int) -> None:
        super().__init__(dataset)
        self.views = views
        self.pad = pad

    def __getitem__(self, index: int) -> list[Any]:
        """Return an example and its views."""
        return [self.dataset[index], *(view[index] for view in self.views)]

    def collater(self, samples: list[Any]) -> dict[str, Any]:
        """Collate the examples alone and together with their views."""
        examples, *views = zip(*samples, strict=True) if samples else ((),)
        batch: dict[str, Any] = self.dataset.collater(list(examples))
        if batch:
            rows = [example["net_input.src_tokens"] for example in examples]
            rows += [row for view in views for row in view]
            batch[WITH_VIEWS] = {
                "src_tokens": data_utils.collate_tokens(rows, self.pad),
                "src_lengths": torch.tensor([row.numel() for row in rows]),
            }
        return batch


def load_views(task: Any, split: str, examples: int) -> list[Any]:
    """Load both views of a split, joined and shortened as fairseq does for examples.

    Returns:
        two datasets of token ids, ``(T,)`` int64.

    Raises:
        InputError: the data folder lacks views, has them for another number of
            examples, or has one that is too long for the model and is not shortened.
    """
    cfg, found = task.cfg, []
    width = 2 if Path(cfg.data, "input1").is_dir() else 1
    starts = (cfg.init_token, cfg.separator_token)
    for folder in VIEWS:
        parts = []
        for number, start in zip(range(width), starts, strict=False):
            path = Path(cfg.data, folder, f"input{number}", split)
            if not Path(f"{path}.idx").is_file():
                raise InputError(
                    f"--scl-views needs two views of each example, but {path}.idx is "
                    "missing: create a data folder with views with 'fairseq-scl "
                    "prepare --sample … --augmented … --views'"
                )
            part = open_rows(path, len(task.source_dictionary))
            if len(part) != examples:
                raise InputError(
                    f"{path} has {len(part)} lines, but {split} has {examples}"
                )
            parts.append(part if start is None else PrependTokenDataset(part, start))
        tokens = ConcatSentencesDataset(*parts) if width == 2 else parts[0]
        shown = maybe_shorten_dataset(
            tokens,
            split,
            cfg.shorten_data_split_list,
            cfg.shorten_method,
            task.max_positions(),
            cfg.seed,
        )
        if shown is tokens:
            _check_lengths(tokens, task.max_positions(), Path(cfg.data, folder), split)
        found.append(shown)
    return found


def _check_lengths(tokens: Any, most: int, folder: Path, split: str) -> None:
    long = np.flatnonzero(np.asarray(tokens.sizes) > most)
    if len(long):
        raise InputError(
            f"{folder / 'input0' / split}, line {long[0] + 1}: {tokens.sizes[long[0]]} "
            f"tokens, but the model reads at most {most} (views that are too long: "
            f"{len(long)}); cut them with --shorten-method truncate"
        )
