"""The Python interface: train or load a classifier, label texts from any thread."""

import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from fairseq_scl.data.cut import cut_note
from fairseq_scl.data.vocabulary_files import SURROGATE
from fairseq_scl.device import available_device
from fairseq_scl.errors import InputError
from fairseq_scl.inference.arguments import (
    check_max_tokens,
    check_settings,
    items_of,
    path_of,
)
from fairseq_scl.inference.fitting import check_examples, train_in_a_process
from fairseq_scl.inference.model_folder import LoadedModel, load_classifier
from fairseq_scl.inference.predict import (
    UNSURE,
    check_outputs,
    check_threshold,
    encode,
    probabilities,
    without_second,
)
from fairseq_scl.packing.encoder import pack, unsupported


class Classifier:
    """A text classifier, loaded from a model folder.

    For example::

        from fairseq_scl import Classifier

        classifier = Classifier.load("models/mine")
        classifier.predict(["a gripping film", "a dull story"])

    Predictions equal those of ``fairseq-scl predict`` and, up to rounding, do not
    depend on the other texts of a call. Threads may share a classifier: prediction
    changes neither the classifier nor settings of PyTorch. Each process loads its own.

    Attributes:
        labels: names of the classes, in the order of the columns of
            :meth:`predict_proba`.
        pair: whether an example is a pair of texts.
        max_positions: longest input in tokens, special tokens included; longer inputs
            are truncated.
    """

    def __init__(self, model: LoadedModel) -> None:
        """Use :meth:`load` or :meth:`fit` instead."""
        if unsupported(model.model) is None:
            pack(model.model)  # before threads share it
        self._model = model
        self.labels = tuple(model.labels)
        self.pair = model.pair
        self.max_positions = model.max_positions

    @classmethod
    def load(
        cls, folder: str | Path, device: str = "auto", precision: str = "fp32"
    ) -> "Classifier":
        """Load a model folder.

        Args:
            folder: written by ``fairseq-scl train`` or ``export``.
            device: ``cpu``, ``cuda``, ``cuda:1``, …; ``auto`` is ``cuda`` if there is a
                GPU, else ``cpu``.
            precision: ``fp32``, or on a GPU ``tf32``, ``fp16`` or ``bf16``. ``tf32`` is
                a setting of PyTorch for the whole process.

        Raises:
            InputError: a ``ValueError``: the folder is not a complete model folder, or
                there is no such device or precision.
        """
        folder = path_of(folder, "folder")
        device = available_device() if device == "auto" else str(device)
        return cls(load_classifier(folder, device, precision))

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled, for example for another process.

        Raises:
            TypeError: always.
        """
        raise TypeError(
            "a Classifier cannot be pickled or copied: load its model folder again, in "
            "each process"
        )

    @classmethod
    def fit(
        cls,
        texts: Sequence[str | tuple[str, str]],
        labels: Sequence[str | int],
        to: str | Path | None = None,
        *,
        progress: bool = True,
        **settings: str | int | float | bool | Path | None,
    ) -> "Classifier":
        """Train a classifier as ``fairseq-scl train`` does, in a process of its own.

        A fifth of the texts is held out to choose the best weights. The same call with
        the same folder resumes an interrupted training and loads a finished one.

        Args:
            texts: at least 20 different texts, or pairs of texts.
            labels: the class of each text. Integers are converted to strings.
            to: model folder to write; data, log and checkpoint go to ``TO-training``.
                By default nothing is kept on disk.
            progress: show downloads and the progress of training on ``sys.stderr``.
            settings: options of ``fairseq-scl train`` by name: ``encoder``,
                ``objective``, ``recipe``, ``updates``, ``learning_rate``,
                ``batch_size``, ``max_positions``, ``pooling``, ``class_weights``,
                ``seed``, ``device``, ``precision``, ``labels_are_classes``, ``cache``.
                ``None`` and ``False`` mean the default.

        Returns:
            the classifier, on ``device`` and in ``precision``.

        Raises:
            InputError: a ``ValueError``: a text or label is not of these types, the
                numbers of texts and labels differ, there is no such setting, or the
                command refuses the texts, labels or settings.
            RuntimeError: training failed; the message names the log if it is kept.

        Warns:
            UserWarning: the notes of the command: repeated texts, texts that are cut,
                rare classes, a model that has learned nothing or labels fewer texts
                correctly than a logistic regression on the encoder's features.
        """
        check_settings(settings)
        rows = check_examples(texts, labels)
        target = None if to is None else path_of(to, "to")
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch, "examples.jsonl")
            folder = target or Path(scratch, "model")
            train_in_a_process(rows, table, folder, settings, progress)
            device = str(settings.get("device") or "auto")
            return cls.load(folder, device, str(settings.get("precision") or "fp32"))

    def predict(
        self,
        texts: Sequence[str | tuple[str, str]],
        threshold: float | None = None,
        max_tokens: int = 4096,
    ) -> list[str]:
        """Return the most probable label of each text.

        Args:
            texts: as for :meth:`predict_proba`.
            threshold: return ``"unsure"`` for texts whose largest probability is lower.
            max_tokens: as for :meth:`predict_proba`.

        Raises:
            InputError: as for :meth:`predict_proba`, or the threshold is not above 0
                and at most 1.

        Warns:
            UserWarning: as for :meth:`predict_proba`.
        """
        check_threshold(threshold, self.labels, "threshold")
        found = self._probabilities(texts, max_tokens)
        return [
            UNSURE if float(row.max()) < (threshold or 0) else self.labels[row.argmax()]
            for row in found
        ]

    def predict_proba(
        self, texts: Sequence[str | tuple[str, str]], max_tokens: int = 4096
    ) -> NDArray[np.float32]:
        """Return the probability of each class for each text.

        Args:
            texts: N texts; if :attr:`pair`, N pairs of texts.
            max_tokens: tokens per batch, including padding. A lower number needs less
                memory.

        Returns:
            ``(N, C)`` float32 in the order of ``texts`` and :attr:`labels`; each row
            sums to 1.

        Raises:
            InputError: a ``ValueError``: a text is empty or is not a string, a pair is
                not two strings, ``texts`` is not a list, or the model's output is NaN
                or infinite.

        Warns:
            UserWarning: how many texts are longer than :attr:`max_positions` and are
                cut.
        """
        return self._probabilities(texts, max_tokens)

    def _probabilities(
        self, texts: Sequence[str | tuple[str, str]], max_tokens: int
    ) -> NDArray[np.float32]:
        check_max_tokens(max_tokens)
        encoded, cut = encode(self._model, self._examples(texts))
        unread = without_second(self._model, encoded)
        if said := cut_note("texts", len(encoded), cut, unread, self.max_positions):
            warnings.warn(said, stacklevel=3)
        found = probabilities(self._model, encoded, max_tokens)
        check_outputs(self._model, found)
        return found.numpy()

    def _examples(
        self, texts: Sequence[str | tuple[str, str]]
    ) -> list[tuple[str, ...]]:
        examples = []
        for number, given in enumerate(items_of(texts, "texts")):
            parts = tuple(given) if isinstance(given, tuple | list) else (given,)
            strings = all(isinstance(part, str) for part in parts)
            if not strings or len(parts) != 1 + self.pair:
                wanted = "pairs of strings" if self.pair else "strings"
                raise InputError(
                    f"texts[{number}] is {repr(given)[:60]}: this model takes {wanted}"
                )
            if not any(part.strip() for part in parts):
                raise InputError(f"texts[{number}] is empty: there is nothing to label")
            if any(map(SURROGATE.search, parts)):
                raise InputError(
                    f"texts[{number}] has an unpaired surrogate, which is not valid "
                    "Unicode: decode it with errors='replace'"
                )
            examples.append(parts)
        return examples
