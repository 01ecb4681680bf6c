"""Temperature scaling: probabilities that agree with accuracies (Guo et al., 2017)."""

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from fairseq_scl.data.files import read_json, sha256, write_json
from fairseq_scl.errors import InputError
from fairseq_scl.inference.model_folder import SETTINGS, LoadedModel, ModelSettings
from fairseq_scl.input_format import MANIFEST
from fairseq_scl.typed import read_as

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(
    logits: NDArray[np.float32], truth: NDArray[np.int64], source: object
) -> float:
    """Return the temperature T that minimizes the cross-entropy of softmax(logits / T).

    Args:
        logits: ``(N, C)``.
        truth: class ids ``(N,)``.
        source: file of the examples, for the message.

    Raises:
        InputError: there is no minimum between 0.05 and 20, as when all answers are
            right.
    """
    rows, wide = np.arange(len(truth)), logits.astype(np.float64)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(wide / np.exp(log_temperature), axis=1)
        return -float(scaled[rows, truth].mean())

    limits = np.log((LOWEST, HIGHEST))
    found = minimize_scalar(loss, bounds=limits, method="bounded")
    if np.abs(limits - found.x).min() < 1e-3:
        raise InputError(
            f"{source} does not determine a temperature from {LOWEST:g} to "
            f"{HIGHEST:g}: use more examples, some of which the model gets wrong"
        )
    return float(np.exp(found.x))


def store_temperature(folder: Path, model: LoadedModel, temperature: float) -> None:
    """Write a temperature into a model folder and the model loaded from it.

    Raises:
        InputError: the model has several exits, the folder was written by an earlier
            version, or it cannot be written.
    """
    if len(model.exits) > 1:
        raise InputError(
            f"{folder} has several exits: --temperature-scaling is for models with one"
        )
    path, listing = folder / SETTINGS, folder / MANIFEST
    if read_json(path).get("schema") != 2 or not listing.is_file():
        raise InputError(
            f"{folder} was written by an earlier version: export it again to store a "
            "temperature"
        )
    settings = read_as(path, ModelSettings)
    settings.temperature = model.temperature = temperature
    write_json(path, msgspec.to_builtins(settings))
    manifest = read_json(listing)
    manifest["sha256"][SETTINGS] = sha256(path)
    write_json(listing, manifest)
