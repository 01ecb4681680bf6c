"""The translation models of WMT'18 and WMT'19 that fairseq's authors published.

``wmt18`` is the ensemble of Edunov et al. (2018), which Gunel et al. (2021) name for
their augmentation; ``wmt19`` are the single models of Ng et al. (2019). Addresses are
those of fairseq's own table. No checksum of the archives was ever published: what came
is checked by its length, by the checksum inside gzip and by what it must hold.
"""

import fnmatch
import gzip
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from fairseq.models.transformer import TransformerModel

from fairseq_scl.augment.segment import CODES_FILES
from fairseq_scl.data.download import ARCHIVES, fetch_file
from fairseq_scl.data.folders import TRANSLATION, folder_then_rename
from fairseq_scl.data.packages import default_cache
from fairseq_scl.data.tasks import Download
from fairseq_scl.errors import InputError

FOLDER = "translation"
SUFFIX = ".tar.gz"
DEFAULT = "wmt19"
TOKENIZER = "moses"
# Weights hardly pack at all, text to a third.
MOST_PACKED, SLACK = 20, 1 << 26


@dataclass(frozen=True)
class PretrainedModel:
    """One archive.

    Attributes:
        hub_name: in fairseq's table of models.
        checkpoints: which files of the archive are the model.
    """

    hub_name: str
    checkpoints: str

    @property
    def url(self) -> str:
        """Where fairseq says that it is."""
        path: str = TransformerModel.hub_models()[self.hub_name]["path"]
        return path


# Of the six checkpoints of wmt18, fairseq's own example takes these five. The archive
# has one more model in a folder of its own, which mends what an ensemble only copies.
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
    """Return the folder of a pre-trained model, after downloading it if need be.

    Args:
        name: ``wmt18`` or ``wmt19``.
        source: language that it translates.
        target: language that it translates into.
        cache: where models are kept; the cache of the project by default.
        folder: holds the archive, or what is in it under the archive's name without
            ``.tar.gz``; nothing is downloaded then.
        progress: whether to show a progress bar on standard error.

    Returns:
        a folder with the checkpoints, ``dict.LANGUAGE.txt`` and ``bpecodes`` or
        ``code``; it is complete when it exists.

    Raises:
        InputError: there is no such model, the download failed, or the archive is
            missing, damaged or holds no model.
    """
    model = _find(name, source, target)
    cache = (cache or default_cache()) / FOLDER
    unpacked = cache / f"{name}.{source}-{target}"
    if folder is not None:
        archive = folder / PurePosixPath(model.url).name
        given = folder / archive.name.removesuffix(SUFFIX)
        if given.is_dir():
            if missing := _missing(given, model, (source, target)):
                raise InputError(f"{given} holds no {', no '.join(missing)}")
            return given
        if not archive.is_file():
            raise InputError(
                f"{folder} holds neither {archive.name} nor a folder {given.name}"
            )
    if unpacked.is_dir():
        return unpacked
    if folder is None:
        archive = fetch_file(
            Download(model.url, None, None), cache / ARCHIVES, progress
        )
    unpack(archive, unpacked, model, (source, target))
    if folder is None:
        archive.unlink()  # gigabytes that are in the folder now
    return unpacked


def unpack(
    archive: Path, folder: Path, model: PretrainedModel, languages: tuple[str, str]
) -> None:
    """Take the model out of an archive, and nothing else.

    Only plain files of known names are written, under these names: no path and no link
    of the archive is followed.

    Args:
        archive: a gzipped tar file.
        folder: gets the files; a temporary folder beside it is renamed at the end.
        model: what the archive is.
        languages: source and target.

    Raises:
        InputError: the archive is damaged or holds no model.
    """
    names = [f"dict.{language}.txt" for language in languages]
    names += [*CODES_FILES, model.checkpoints]
    with folder_then_rename(folder, TRANSLATION, [archive]) as new:
        try:
            parts = _take(archive, names, new)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(
                f"{archive} is damaged or is no gzipped tar file: delete it and get it "
                "again"
            ) from error
        whole = [part for part in parts if not _missing(part, model, languages)]
        if len(whole) != 1:
            raise InputError(
                f"{archive} has {len(whole)} folders with {', '.join(names[:2])}, "
                f"{' or '.join(CODES_FILES)} and {model.checkpoints}: one is needed"
            )
        for path in sorted(whole[0].iterdir()):
            path.rename(new / path.name)
        for part in parts:
            shutil.rmtree(part)


def _take(archive: Path, names: list[str], to: Path) -> list[Path]:
    """Copy the plain files whose name fits one of ``names``, one folder a folder."""
    parts: dict[PurePosixPath, Path] = {}
    size = 0
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if not any(fnmatch.fnmatchcase(path.name, name) for name in names):
                continue
            source = tar.extractfile(member) if member.isfile() else None
            if source is None:
                continue
            size += member.size
            if size > SLACK + MOST_PACKED * archive.stat().st_size:
                raise InputError(
                    f"{archive} was not unpacked: {member.name} and what comes before "
                    f"it have {size:,} bytes, too many for what is packed there"
                )
            part = parts.setdefault(path.parent, to / f"part{len(parts)}")
            part.mkdir(exist_ok=True)
            with source, (part / path.name).open("wb") as file:
                shutil.copyfileobj(source, file)
    return list(parts.values())


def _find(name: str, source: str, target: str) -> PretrainedModel:
    if name not in NAMES:
        raise InputError(f"there is no model {name!r}: choose from {', '.join(NAMES)}")
    found = MODELS.get((name, source, target))
    if found is None and (name, source, target) == ("wmt18", "de", "en"):
        raise InputError(
            "no WMT'18 model from German to English was ever published: take wmt19, "
            "the default, or train one with scripts/train_wmt18_de_en.sh"
        )
    if found is None:
        pairs = [f"{s}-{t}" for n, s, t in MODELS if n == name]
        raise InputError(
            f"{name} has no model for {source}-{target}, only for {', '.join(pairs)}"
        )
    return found


def _missing(
    folder: Path, model: PretrainedModel, languages: tuple[str, str]
) -> list[str]:
    names = [f"dict.{language}.txt" for language in languages]
    missing = [name for name in names if not (folder / name).is_file()]
    if not any((folder / name).is_file() for name in CODES_FILES):
        missing.append(" or ".join(CODES_FILES))
    if not any(folder.glob(model.checkpoints)):
        missing.append(model.checkpoints)
    return missing
