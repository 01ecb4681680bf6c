"""Which examples share a batch and are therefore contrasted with each other."""

from typing import Any

import numpy as np
from fairseq.data import BaseWrapperDataset, FairseqDataset
from numpy.typing import NDArray

from fairseq_scl.criterions.protocol import WITH_VIEWS
from fairseq_scl.packing.encoder import LENGTHS, right_padded_lengths

BATCHING = ("fixed", "reshuffled", "balanced")


def epoch_order(
    labels: NDArray[np.int64], balanced: bool, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Draw the order in which one epoch visits the examples.

    Args:
        labels: ``(N,)`` int64, the class of each example.
        balanced: spread every class evenly over the epoch, so that consecutive
            examples, and thus each batch, have the class proportions of the training
            set, to within 1 + (C - 2) * share examples of each of C classes; otherwise
            draw uniformly at random.
        seed: the run's seed.
        epoch: number of the epoch; the order differs in each epoch.

    Returns:
        ``(N,)`` int64, a permutation of 0 … N-1, the same for the same arguments.
    """
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(labels))
    if not balanced:
        return order
    # The j-th of n examples of a class goes to (j + u) / n of the epoch, with u drawn
    # per class: stratified sampling of a shuffled class.
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = order[labels[order] == label]
        offset = random.random()
        place[members] = (np.arange(len(members)) + offset) / len(members)
    return np.argsort(place, kind="stable")


class EpochOrderDataset(BaseWrapperDataset):
    """A dataset whose batches are drawn again in each epoch.

    Stock fairseq shuffles the order of its batches but never their contents. This
    dataset tells fairseq not to reuse batches and returns a new order of examples.
    """

    def __init__(
        self,
        dataset: FairseqDataset,
        labels: NDArray[np.int64],
        balanced: bool,
        seed: int,
    ) -> None:
        super().__init__(dataset)
        self.labels = labels
        self.balanced = balanced
        self.seed = seed
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next order."""
        super().set_epoch(epoch)
        self.epoch = epoch

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        """Always false, so that fairseq asks for the order of each epoch."""
        return False

    def ordered_indices(self) -> NDArray[np.int64]:
        """Return the order of the current epoch, ``(N,)`` int64."""
        return epoch_order(self.labels, self.balanced, self.seed, self.epoch)


class CountedDataset(BaseWrapperDataset):
    """Counts the tokens of a batch on the CPU, which saves a later device sync."""

    def __init__(self, dataset: Any, pad: int) -> None:
        super().__init__(dataset)
        self.pad = pad

    def collater(self, samples: list[Any]) -> dict[str, Any]:
        """Collate examples, with the lengths that ``--packed`` needs."""
        batch: dict[str, Any] = super().collater(samples)
        for key in ("net_input", WITH_VIEWS) if batch else ():
            if key in batch:
                tokens = batch[key]["src_tokens"]
                batch[key][LENGTHS] = right_padded_lengths(tokens, self.pad)
        return batch
