"""The interface between the task and the criteria of this package.

The task works with any criterion, and the criterion with any classification task.
Options that need both sides check for these protocols and nothing else. Your own
criterion satisfies the first one if it subclasses
:class:`~fairseq_scl.criterions.sentence_prediction_scl.SentencePredictionSCLCriterion`.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fairseq_scl.errors import InputError

# Keys that the task adds to a batch. A worker that has run out of batches repeats an
# old one, so that all workers take the same number of steps; its results are ignored.
IGNORED = "ignored"
# Input of 3N rows: the examples, their first views and their second views.
WITH_VIEWS = "with_views"


@runtime_checkable
class ContrastiveCriterion(Protocol):
    """A criterion that separates the forward pass of the model from the loss.

    Attributes:
        scl_views: whether its training batches need :data:`WITH_VIEWS`.
    """

    scl_views: bool

    def before_update(self, model: nn.Module, update: int) -> None:
        """Prepare a training step; called before each one.

        Args:
            model: the model with restored weights, bare or wrapped.
            update: number of updates so far.
        """

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Run the model on a batch, or on a part of it with ``--chunk``.

        Args:
            model: RoBERTa with the classification head, bare or wrapped.
            net_input: ``sample["net_input"]``.

        Returns:
            logits ``(N, C)``, classification features ``(N, D)``, and any other tensors
            that the loss needs, each with one row per example and in the dtype of the
            model.
        """

    def loss_of_outputs(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        logits: Tensor,
        features: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of a whole batch from the results of ``model_outputs``.

        Args:
            model: the model, for its settings and parameters; it is not called again.
            sample: the batch.
            logits: ``(N, C)``.
            features: ``(N, D)``.
            others: any other tensors that ``model_outputs`` returned.

        Returns:
            the same as ``forward``: the loss summed over the batch, N, and sums for
            logging.
        """


@runtime_checkable
class ContrastiveTask(Protocol):
    """The task ``sentence_prediction_scl``, as a criterion sees it.

    It marks batches as :data:`IGNORED`, loads views for ``scl_views`` and calls
    ``before_update``.

    Attributes:
        encoder_embed_dim: width D of the model, or 0 before the model is built.
    """

    encoder_embed_dim: int


def require_task(needs: str, task: Any) -> None:
    """Refuse any task other than ``sentence_prediction_scl``.

    Raises:
        InputError: names the task and ``needs``, the flag that needs this one.
    """
    if not isinstance(task, ContrastiveTask):
        raise InputError(
            f"{needs} needs --task sentence_prediction_scl, not {type(task).__name__}"
        )
