"""How fast are translations sampled, compared with ``fairseq-interactive``?

100 SST-2 sentences, three translations of each at temperature 0.9, one direction, from
text to text. The peer is ``fairseq-interactive --sampling --beam 3 --nbest 3`` with the
same model: once with a buffer for all lines and the fastest of several batch sizes, and
once with its defaults, line by line. Times do not include loading.
"""

import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf

from benchmarks.pairs import Pairs, Row, Settings
from fairseq_scl.augment.directions import find_models
from fairseq_scl.augment.sampler.gumbel_max import DecodingMethod
from fairseq_scl.augment.sentences import Direction, translate_texts
from fairseq_scl.data.official_files import task_table
from fairseq_scl.data.tasks import TASKS, TRAIN
from fairseq_scl.errors import InputError

QUESTION = "sampling translations, 3 each"
SENTENCES, COPIES, TEMPERATURE = 100, 3, 0.9
LINE_BY_LINE, BEST = 4.0, 1.5
BATCH_SIZES = (16, 32, 64, 100)
MOST_ROUNDS = 5
READY = "Type the input sentence"


def rows(settings: Settings) -> Iterator[Row]:
    """Yield the rows of this benchmark; needs ``--glue`` and ``--translation``.

    Raises:
        InputError: one of them is missing.
    """
    if settings.glue is None or settings.translation is None:
        raise InputError(
            "--glue (folder with SST-2) and --translation (an English to German model "
            "with sentencepiece) are required"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    direction = find_models(str(settings.translation), "en", "de").load(device)
    lines = _sentences(settings.glue)
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "lines.en")
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

        def peer(*flags: str) -> float:
            return _interactive(settings.translation, file, flags)

        def ours() -> float:
            return _ours(direction, lines)

        ours()
        whole = ("--buffer-size", str(len(lines)))
        tried = {n: peer(*whole, "--batch-size", str(n)) for n in BATCH_SIZES}
        best = (*whole, "--batch-size", str(min(tried, key=lambda n: tried[n])))
        rounds = min(settings.rounds, MOST_ROUNDS)
        yield _pairs(ours, lambda: peer(*best), rounds).gain(
            QUESTION, f"fairseq-interactive {' '.join(best)}", BEST
        )
        yield _pairs(ours, peer, rounds).gain(
            QUESTION, "fairseq-interactive line by line", LINE_BY_LINE
        )


def _pairs(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> Pairs:
    """Measure in alternating pairs; return milliseconds per translation."""
    found: dict[Callable[[], float], list[float]] = {ours: [], peer: []}
    for number in range(rounds):
        for side in (ours, peer) if number % 2 == 0 else (peer, ours):
            found[side].append(1000 * side() / (SENTENCES * COPIES))
    return Pairs(tuple(found[ours]), tuple(found[peer]), "ms per translation")


def _sentences(glue: Path) -> list[str]:
    table = task_table(TASKS["SST-2"], glue, TRAIN)
    found: list[str] = []
    for _, example in table:
        found.append(example.sentences[0])
        if len(found) == SENTENCES:
            break
    return found


def _ours(direction: Direction, lines: Sequence[str]) -> float:
    start = time.perf_counter()
    names = [[(n, copy) for copy in range(COPIES)] for n in range(len(lines))]
    translate_texts(direction, lines, names, DecodingMethod(TEMPERATURE))
    return time.perf_counter() - start


class _Clock(logging.Handler):
    """Record when the models are loaded and the first line is read."""

    def __init__(self) -> None:
        super().__init__()
        self.start = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith(READY):
            self.start = time.perf_counter()


def _interactive(model: Path | None, file: Path, flags: Sequence[str]) -> float:
    """Run ``fairseq-interactive`` in this process and return its time in seconds."""
    words = [str(model), "--path", str(Path(str(model), "model.pt"))]
    words += ["--input", str(file), "--source-lang", "en", "--target-lang", "de"]
    words += ["--bpe", "sentencepiece", "--sentencepiece-model", f"{model}/spm.model"]
    words += ["--sampling", "--temperature", str(TEMPERATURE), "--seed", "1", *flags]
    words += ["--beam", str(COPIES), "--nbest", str(COPIES)]
    clock = _Clock()
    with contextlib.redirect_stdout(io.StringIO()):  # its output and its log
        from fairseq_cli import interactive

        parser = options.get_interactive_generation_parser()
        arguments = options.parse_args_and_arch(parser, words)
        for name in ("fairseq", "hydra"):
            logging.getLogger(name).setLevel(logging.WARNING)
        interactive.logger.propagate = False
        interactive.logger.setLevel(logging.INFO)
        interactive.logger.addHandler(clock)
        try:
            interactive.main(convert_namespace_to_omegaconf(arguments))
            return time.perf_counter() - clock.start
        finally:
            interactive.logger.removeHandler(clock)
