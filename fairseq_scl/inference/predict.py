"""Compute class probabilities and features of sentences, batched by length.

``encoded`` is the token ids of N examples, as :func:`encode` returns them;
``max_tokens`` limits the tokens in a batch, including padding. Results are on the CPU,
in the order of ``encoded``.
"""

from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any

import torch
from fairseq.data import data_utils
from torch import Tensor

from fairseq_scl.data.binarize import encoded as token_ids
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import LoadedModel
from fairseq_scl.models.features import EXTRA_KEY, classification_features
from fairseq_scl.models.pooling import head_pooling
from fairseq_scl.packing.encoder import LENGTHS, pack, right_padded_lengths, unsupported

# The answer to an example whose largest probability is below a threshold.
UNSURE = "unsure"


def encode(
    classifier: LoadedModel, examples: Sequence[tuple[str, ...]]
) -> tuple[list[Tensor], int]:
    """Turn examples of one or two sentences into token ids, as in training.

    Returns:
        one ``(T,)`` int64 tensor per example: ``[<s>] a </s>`` or
        ``[<s>] a </s> [</s>] b </s>``, with the same special tokens as in training,
        truncated to ``classifier.max_positions`` tokens; and the number of truncated
        examples.
    """
    columns = [
        token_ids(texts, classifier.tokenizer, classifier.dictionary)
        for texts in zip(*examples, strict=True)
    ]
    return joined(classifier, columns)


def joined(
    classifier: LoadedModel, columns: Sequence[Sequence[Tensor]]
) -> tuple[list[Tensor], int]:
    """Join the ids of the first and, for pairs, the second sentences.

    Each is a ``(T,)`` integer tensor with ``</s>`` at the end; see :func:`encode`.
    """
    starts = [classifier.init_token, classifier.separator_token]
    rows, cut = [], 0
    for parts in zip(*columns, strict=True):
        ids: list[int] = []
        for start, part in zip(starts, parts, strict=False):
            ids += [] if start is None else [start]
            ids += part.tolist()
        rows.append(torch.tensor(ids[: classifier.max_positions]))
        cut += len(ids) > classifier.max_positions
    return rows, cut


def without_second(classifier: LoadedModel, encoded: Sequence[Tensor]) -> int:
    """Count the pairs whose first sentence alone fills the model's length."""
    if not classifier.pair:
        return 0
    # The first sentence ends with </s>, perhaps followed by a separator.
    after = 1 + (classifier.separator_token is not None)
    end, most = classifier.dictionary.eos(), classifier.max_positions
    return sum(not (row[: most - after] == end).any() for row in encoded)


def probabilities(
    classifier: LoadedModel, encoded: Sequence[Tensor], max_tokens: int = 4096
) -> Tensor:
    """Compute class probabilities at the model's temperature.

    Returns:
        ``(N, classes)`` float32; rows sum to 1.
    """
    found = logits(classifier, encoded, max_tokens)
    return torch.softmax(found / classifier.temperature, dim=-1)


def logits(
    classifier: LoadedModel, encoded: Sequence[Tensor], max_tokens: int = 4096
) -> Tensor:
    """Compute logits, ``(N, classes)`` float32."""
    result = torch.zeros(len(encoded), len(classifier.labels))
    for rows, batch in batches(classifier, encoded, max_tokens):
        with torch.inference_mode():
            found, _ = classifier.model(
                **batch, classification_head_name=classifier.head
            )
        result[rows] = found.float().cpu()
    return result


def check_pair(classifier: LoadedModel, pair: bool, source: object) -> None:
    """Refuse single sentences for a model that was trained on pairs, and vice versa.

    Raises:
        InputError: names ``source``, where the examples are from.
    """
    if pair != classifier.pair:
        kinds = ("single sentences", "pairs")
        raise InputError(
            f"{source} has {kinds[pair]}, but the model was trained on "
            f"{kinds[classifier.pair]}"
        )


def check_outputs(classifier: LoadedModel, outputs: Tensor, where: str = "") -> None:
    """Refuse logits or probabilities, of any shape, that are not finite.

    Raises:
        InputError: an output is NaN or infinite; names the model folder and ``where``.
    """
    if not torch.isfinite(outputs).all():
        raise InputError(
            f"{where}{classifier.folder} computes an output that is NaN or infinite: "
            "its weights are too large"
        )


def check_threshold(threshold: float | None, labels: Iterable[str], flag: str) -> None:
    """Refuse a threshold for :data:`UNSURE` that makes no sense; ``None`` is accepted.

    Raises:
        InputError: it is not above 0 and at most 1, or the model has such a label.
    """
    if threshold is None:
        return
    if not (isinstance(threshold, Real) and 0 < threshold <= 1):
        raise InputError(
            f"{flag} is {threshold!r}: it must be a probability, above 0 and at most 1"
        )
    if UNSURE in labels:
        raise InputError(
            f"{flag} answers {UNSURE!r}, which is also a label of this model"
        )


def features(
    classifier: LoadedModel, encoded: Sequence[Tensor], kind: str | None = None
) -> Tensor:
    """Compute Φ(x), ``(N, D)`` float32, not normalized.

    ``kind`` is ``cls``, ``mean`` or ``pooled``, see
    :func:`~fairseq_scl.models.features.classification_features`, or ``None`` for the
    pooling that the model's classification head reads.
    """
    found: dict[int, Tensor] = {}
    model, head = classifier.model, classifier.head
    kind = head_pooling(model) if kind is None else kind
    for rows, batch in batches(classifier, encoded):
        with torch.inference_mode(), classification_features(model, head, kind):
            _, extra = model(**batch, classification_head_name=head)
        found |= dict(zip(rows, extra[EXTRA_KEY].float().cpu(), strict=True))
    return torch.stack([found[row] for row in range(len(encoded))])


def batches(
    classifier: LoadedModel, encoded: Sequence[Tensor], max_tokens: int = 4096
) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """Yield row numbers and the model's arguments, longest examples first.

    The model skips padding unless it has an unsupported part; the results are the same.
    """
    if unsupported(classifier.model) is None:
        pack(classifier.model)
    device = next(classifier.model.parameters()).device
    pad = classifier.dictionary.pad()
    waiting = sorted(range(len(encoded)), key=lambda row: -len(encoded[row]))
    while waiting:
        size = max(1, max_tokens // len(encoded[waiting[0]]))
        rows, waiting = waiting[:size], waiting[size:]
        tokens = data_utils.collate_tokens([encoded[row] for row in rows], pad)
        lengths = right_padded_lengths(tokens, pad)
        yield rows, {"src_tokens": tokens.to(device), LENGTHS: lengths}
