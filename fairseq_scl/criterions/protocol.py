"""What the task and a criterion of this package ask of each other, written once.

Both work with others: the task with any criterion, the criterion with any task of
classification. An option that needs both sides looks for these protocols, and for
nothing else. A criterion of your own satisfies the first by subclassing
:class:`~fairseq_scl.criterions.sentence_prediction_scl.SentencePredictionSCLCriterion`.
"""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from fairseq_scl.errors import InputError

# What the task adds to a batch. A worker without a batch left computes an old one, so
# that all workers take the same number of steps: its results are not to count.
IGNORED = "ignored"
# The input of the examples, their first and their second views, 3N rows.
WITH_VIEWS = "with_views"


@runtime_checkable
class ContrastiveCriterion(Protocol):
    """A criterion that separates the pass through the model from the loss.

    Attributes:
        scl_views: whether its training batches need :data:`WITH_VIEWS`.
        reads_parameters: whether the loss reads parameters themselves, besides what
            ``model_outputs`` returns; ``--chunk`` then takes their gradients too.
    """

    scl_views: bool
    reads_parameters: bool

    def before_update(self, model: nn.Module, update: int) -> None:
        """Do what has to be done once before a training step; called for each step.

        Args:
            model: with the weights that were restored, bare or wrapped.
            update: number of updates so far.
        """

    def model_outputs(
        self, model: nn.Module, net_input: dict[str, Any]
    ) -> tuple[Tensor, ...]:
        """Pass a batch, or with ``--chunk`` a part of it, through the model.

        Args:
            model: RoBERTa with the classification head, bare or wrapped.
            net_input: ``sample["net_input"]``.

        Returns:
            logits ``(N, C)``, classification features ``(N, D)``, and what else the
            loss reads, all with a row for each example and in the dtype of the model.
        """

    def loss_of_outputs(
        self,
        model: nn.Module,
        sample: dict[str, Any],
        logits: Tensor,
        features: Tensor,
        *others: Tensor,
    ) -> tuple[Tensor, int, dict[str, Any]]:
        """Compute the loss of a whole batch; with ``model_outputs`` it is ``forward``.

        Args:
            model: for its settings and parameters; its outputs are there already.
            sample: the batch.
            logits: ``(N, C)``.
            features: ``(N, D)``.
            others: what else ``model_outputs`` returned.

        Returns:
            what ``forward`` returns: the loss summed over the batch, N, sums to log.
        """


@runtime_checkable
class ContrastiveTask(Protocol):
    """The task ``sentence_prediction_scl``, as a criterion sees it.

    It marks batches as :data:`IGNORED`, loads views for ``scl_views`` and calls
    ``before_update``.

    Attributes:
        encoder_embed_dim: width D of the model that was built, 0 before.
    """

    encoder_embed_dim: int


def require_task(needs: str, task: Any) -> None:
    """Refuse a task other than ours.

    Args:
        needs: the flag that needs it, with its value.
        task: the task.

    Raises:
        InputError: names both.
    """
    if not isinstance(task, ContrastiveTask):
        raise InputError(
            f"{needs} needs --task sentence_prediction_scl, not {type(task).__name__}"
        )
