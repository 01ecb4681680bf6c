"""Load an encoder folder to compute features before fine-tuning."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairseq_scl.compat.checkpoints import load_model
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.device import check_device
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import LoadedModel
from fairseq_scl.inference.predict import encode, features
from fairseq_scl.input_format import HEAD


def is_encoder_folder(folder: Path) -> bool:
    """Return whether a folder has the weights and the dictionary of an encoder."""
    return all((folder / name).is_file() for name in ("model.pt", "dict.txt"))


def load_encoder(folder: Path, device: str = "cpu") -> LoadedModel:
    """Load an encoder and add an unused classification head.

    The folder is from ``fairseq-scl convert`` or is a RoBERTa published by fairseq.

    Raises:
        InputError: it is not an encoder folder, or the device does not exist.
    """
    if not is_encoder_folder(folder):
        raise InputError(
            f"{folder} is not an encoder folder (model.pt, dict.txt): create one with "
            "'fairseq-scl convert'"
        )
    check_device(device)
    model, task = load_model(folder / "model.pt", {"data": str(folder)})
    model.register_classification_head(HEAD, num_classes=1)
    return LoadedModel(
        model=model.to(device).eval(),
        labels=[""],
        tokenizer=load_tokenizer(folder),
        dictionary=task.source_dictionary,
        pair=False,
        separator_token=None,
        max_positions=int(model.max_positions()),
        exits={},
    )


def sentence_embedder(
    folder: Path, device: str = "cpu"
) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Return a function from N sentences to their embeddings, ``(N, D)`` float64.

    An embedding is the mean of the encoder's final states over the tokens, as is usual
    for sentence encoders. Sentences longer than its positions are truncated.

    Raises:
        InputError: see :func:`load_encoder`.
    """
    encoder = load_encoder(folder, device)

    def embed(sentences: Sequence[str]) -> NDArray[np.float64]:
        tokens, _ = encode(encoder, [(sentence,) for sentence in sentences])
        return features(encoder, tokens, "mean").numpy().astype(np.float64)

    return embed
