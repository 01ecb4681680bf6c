"""The WMT'18 and WMT'19 translation models published by fairseq's authors.

``wmt18`` is the ensemble of Edunov et al. (2018), which Gunel et al. (2021) use for
augmentation; ``wmt19`` are the single models of Ng et al. (2019). The URLs come from
fairseq's own table. There are no published checksums of the archives, so a download is
verified by its length, gzip's checksum and the expected files.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fairseq.models.transformer import TransformerModel

from fairseq_scl.augment.segment import CODES_FILES
from fairseq_scl.data.archives import missing_files, take_folder
from fairseq_scl.data.download import ARCHIVES, fetch_file
from fairseq_scl.data.folders import TRANSLATION, folder_then_rename
from fairseq_scl.data.packages import default_cache
from fairseq_scl.data.tasks import Download
from fairseq_scl.errors import InputError

FOLDER = "translation"
SUFFIX = ".tar.gz"
DEFAULT = "wmt19"
TOKENIZER = "moses"


@dataclass(frozen=True)
class PretrainedModel:
    """One archive: its name in fairseq's table, and the pattern of its checkpoints."""

    hub_name: str
    checkpoints: str

    @property
    def url(self) -> str:
        """The URL in fairseq's table."""
        path: str = TransformerModel.hub_models()[self.hub_name]["path"]
        return path


# The five of six wmt18 checkpoints that fairseq's example uses. The archive has another
# model in a separate folder, which corrects outputs that merely copy the source.
MODELS = {
    ("wmt18", "en", "de"): PretrainedModel(
        "transformer.wmt18.en-de", "wmt18.model[1-5].pt"
    ),
    ("wmt19", "en", "de"): PretrainedModel(
        "transformer.wmt19.en-de.single_model", "*.pt"
    ),
    ("wmt19", "de", "en"): PretrainedModel(
        "transformer.wmt19.de-en.single_model", "*.pt"
    ),
}
NAMES = tuple(dict.fromkeys(name for name, _, _ in MODELS))


def resolve(
    name: str,
    source: str,
    target: str,
    cache: Path | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> Path:
    """Return the folder of a pre-trained model, downloading it if necessary.

    Nothing is downloaded if a ``folder`` is given that has the archive, or its unpacked
    content in a folder named as the archive without ``.tar.gz``.

    Returns:
        a folder with the checkpoints, ``dict.LANGUAGE.txt`` and ``bpecodes`` or
        ``code``; complete when it exists.

    Raises:
        InputError: there is no such model, the download failed, or the archive is
            missing, damaged or does not contain the model.
    """
    model = _find(name, source, target)
    dictionaries = [(f"dict.{language}.txt",) for language in (source, target)]
    needed = [*dictionaries, CODES_FILES, (model.checkpoints,)]
    cache = (cache or default_cache()) / FOLDER
    unpacked = cache / f"{name}.{source}-{target}"
    if folder is not None:
        archive = folder / PurePosixPath(model.url).name
        given = folder / archive.name.removesuffix(SUFFIX)
        if given.is_dir():
            if missing := missing_files(given, needed):
                raise InputError(f"{given} lacks {', '.join(missing)}")
            return given
        if not archive.is_file():
            raise InputError(
                f"{folder} has neither {archive.name} nor a folder {given.name}"
            )
    if unpacked.is_dir():
        return unpacked
    if folder is None:
        archive = fetch_file(
            Download(model.url, None, None), cache / ARCHIVES, progress
        )
    with folder_then_rename(unpacked, TRANSLATION, [archive]) as new:
        take_folder(archive, needed, new)
    if folder is None:
        archive.unlink()  # several gigabytes
    return unpacked


def _find(name: str, source: str, target: str) -> PretrainedModel:
    if name not in NAMES:
        raise InputError(f"there is no model {name!r}: choose from {', '.join(NAMES)}")
    found = MODELS.get((name, source, target))
    if found is None and (name, source, target) == ("wmt18", "de", "en"):
        raise InputError(
            "there is no published WMT'18 model from German to English: use wmt19, the "
            "default, or train one with scripts/train_wmt18_de_en.sh"
        )
    if found is None:
        pairs = [f"{s}-{t}" for n, s, t in MODELS if n == name]
        raise InputError(
            f"{name} has no model for {source}-{target}, only for {', '.join(pairs)}"
        )
    return found
