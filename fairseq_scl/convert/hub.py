"""Fetch the files of an encoder from the Hugging Face hub."""

import re
from pathlib import Path

from fairseq_scl.convert.encoder_config import read_config
from fairseq_scl.convert.huggingface import WEIGHT_FILES
from fairseq_scl.errors import InputError

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
SMALL_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json"),
    *("modules.json", "*_Pooling/config.json"),
)
WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)


def is_hub_id(name: str) -> bool:
    """Return whether a name has the form of an id of the Hugging Face hub."""
    return HUB_ID.fullmatch(name) is not None


def fetch_from_hub(name: str) -> Path:
    """Download a BERT- or RoBERTa-shaped encoder with ``huggingface_hub``.

    Downloads are resumed and kept in the cache of that library, which also works
    offline. ``config.json`` is checked before the weights are downloaded, and pickles
    are downloaded only if there are no ``safetensors``.

    Returns:
        the folder of the snapshot.

    Raises:
        InputError: there is no network, no such model or no access to it, or it
            is a model that we do not compute.
    """
    folder = _snapshot(name, SMALL_FILES)
    read_config(folder / "config.json")
    for files in WEIGHTS:
        folder = _snapshot(name, (*SMALL_FILES, *files))
        if any((folder / file).is_file() for file in WEIGHT_FILES):
            return folder
    raise InputError(
        f"{folder} has none of {', '.join(WEIGHT_FILES)}: choose a model that has its "
        "weights in one of them"
    )


def _snapshot(name: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import errors, snapshot_download  # slow, and rarely needed

    try:
        return Path(snapshot_download(name, allow_patterns=list(files)))
    except errors.GatedRepoError as error:
        raise InputError(
            "this model of the Hugging Face hub needs a login: accept its terms on its "
            "page, then run 'hf auth login' or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            "there is no such folder, and the Hugging Face hub has no such model, or "
            "it is private: check the spelling, or run 'hf auth login' or set HF_TOKEN"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            "there is no such folder, and the Hugging Face hub cannot be reached (no "
            "network, or HF_HUB_OFFLINE is set) and its cache (HF_HOME) lacks this "
            "model: download it where there is a network, copy it here, and convert it "
            "with 'fairseq-scl convert --from FOLDER'"
        ) from error
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"the Hugging Face hub did not deliver it: {reason}"
        ) from error
