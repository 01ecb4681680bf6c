"""``fairseq-scl noise``."""

import argparse

from tqdm import tqdm

from fairseq_scl.augment.distance import noise_signature
from fairseq_scl.cli.options import (
    FILE,
    FOLDER,
    SEVERAL,
    add_device,
    add_encoder,
    encoder_folder,
    number,
)
from fairseq_scl.data.files import sha256, write_then_rename
from fairseq_scl.data.folders import check_files, list_files
from fairseq_scl.errors import InputError
from fairseq_scl.inference.encoder_folder import sentence_embedder
from fairseq_scl.report.csv_rows import as_csv
from fairseq_scl.report.html import page_of_sheets
from fairseq_scl.report.markdown import report_as_markdown
from fairseq_scl.report.noise_sheets import (
    NOISE,
    measured,
    noise_rows,
    noise_sheet,
    read_files,
    sentences_sheet,
    write_noise,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "files",
        nargs="+",
        **FILE,
        help="output files of 'fairseq-scl backtranslate' (TASK/NAME-bt0.3.jsonl), or "
        "folders with them; files of the same task and temperature are combined",
    )
    parser.add_argument(
        "--to",
        **FOLDER,
        help="output folder for noise.md, noise.csv and noise.json; the HTML report of "
        "a table includes those in its results folder",
    )
    parser.add_argument(
        "--html",
        action="store_true",
        help="with --to: also write noise.html, a self-contained page; without it, a "
        "page that is there already is still renewed",
    )
    parser.add_argument(
        "--temperatures",
        **SEVERAL,
        metavar="T",
        help="temperatures of the sentences shown with their originals, as in Table 6 "
        "(default: the lowest and the highest)",
    )
    parser.add_argument(
        "--examples",
        **number(1),
        default=2,
        help="number of original sentences shown per task",
    )
    add_encoder(
        parser,
        "also measure similarity of meaning by the cosine of sentence embeddings, "
        "preferably of an encoder trained to compare sentences",
    )
    add_device(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure the noise, print the tables and write the files."""
    if arguments.html and arguments.to is None:
        raise InputError("--html needs --to, the folder for noise.html")
    if arguments.to and (arguments.to / "noise.html").is_file():
        arguments.html = True  # no page of other numbers stays
    names = ["noise.md", "noise.csv", *["noise.html"] * arguments.html, NOISE]
    paths = [arguments.to / name for name in names] if arguments.to else []
    check_files(paths)
    found = read_files(arguments.files)
    sentences = sentences_sheet(found, arguments.temperatures, arguments.examples)
    embed, line = None, noise_signature()
    if arguments.encoder:
        encoder = encoder_folder(arguments.encoder, arguments.cache)
        embed = sentence_embedder(encoder, arguments.device)
        line += f" cosine: encoder:{sha256(encoder / 'model.pt')[:8]}"
    total = sum(map(len, found.values()))
    with tqdm(total=total, unit=" temperatures", disable=None) as bar:
        noise = measured(found, embed, bar.update)
    sheets = [noise_sheet(noise), sentences]
    text = report_as_markdown(sheets, [], [], line)
    if paths:
        files = {"noise.md": f"{text}\n", "noise.csv": as_csv(noise_rows(noise))}
        if arguments.html:
            title = "How far back-translations are from their sources"
            files["noise.html"] = page_of_sheets(title, sheets, line)
        list_files(paths)
        for name, content in files.items():
            with write_then_rename(arguments.to / name) as file:
                file.write(content)
        write_noise(arguments.to / NOISE, sheets, line)
    print(text)
    if paths:
        print("", *(f"wrote {path}" for path in paths), sep="\n")
    return 0
