from typing import Annotated, Literal

import msgspec
import pytest

from fairseq_scl.typed import as_type, read_as
from helpers.refusals import refused


class Part(msgspec.Struct, forbid_unknown_fields=True):
    correct: Annotated[int, msgspec.Meta(ge=0)]
    total: Annotated[int, msgspec.Meta(ge=1)]

    def __post_init__(self):
        if self.correct > self.total:
            raise ValueError(f"correct is {self.correct}, above total {self.total}")


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    kind: Literal["a", "b"]
    parts: list[Part] = []
    rates: dict[str, Annotated[float, msgspec.Meta(gt=0)]] = {}
    choices: tuple[int | Literal["c"], ...] = ()
    sizes: dict[Annotated[int, msgspec.Meta(ge=1)], int] = {}


GOOD = {"kind": "a", "parts": [{"correct": 1, "total": 2}], "rates": {"x": 0.5}}


def test_values_of_the_type_are_returned():
    assert as_type(GOOD, Whole, "f") == Whole("a", [Part(1, 2)], {"x": 0.5})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"parts": [{"correct": 3, "total": 2}]}, ["parts[0]", "3", "2"]),
        ({"parts": [{"correct": True, "total": 2}]}, ["parts[0].correct", "True"]),
        ({"parts": [{"correct": "1", "total": 2}]}, ["parts[0].correct", "'1'"]),
        ({"parts": [{"correct": 1.5, "total": 2}]}, ["parts[0].correct", "1.5"]),
        ({"parts": [{"total": 2}]}, ["parts[0]", "correct"]),
        ({"parts": {}}, ["parts", "{}"]),
        ({"kind": "c"}, ["kind", "'c'", "allowed are a, b"]),
        ({"choices": [1, "d"]}, ["choices[1]", "'d'", "allowed are c"]),
        ({"sizes": {"0": 1}}, ["sizes", ">= 1"]),
        ({"kind": None}, ["kind", "None"]),
        ({"rates": {"x": float("nan")}}, ["rates", "> 0"]),
        ({"other": 1}, ["other", "kind, parts, rates"]),
    ],
)
def test_a_refusal_names_file_field_and_value(change, words):
    with refused("there/file.json: ", *words):
        as_type({**GOOD, **change}, Whole, "there/file.json")


@pytest.mark.parametrize("value", [[], None, 3, "text", {}])
def test_a_file_of_another_shape_is_refused(tmp_path, value):
    path = tmp_path / "file.json"
    path.write_bytes(msgspec.json.encode(value))
    with refused(path):
        read_as(path, Whole)


def test_a_long_value_is_cut():
    with refused() as caught:
        as_type({**GOOD, "parts": "x" * 10_000}, Whole, "f")
    assert len(str(caught.value)) < 200
