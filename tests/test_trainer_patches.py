"""What is changed in fairseq's trainer, its options and its optimizers."""

from types import SimpleNamespace

import pytest
from toy import make_data

from fairseq_scl.compat.patches.wrapping import wrap


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("patches") / "bin"
    return make_data(folder, {"train": 9, "valid": 30, "test": 6})


def test_a_function_is_wrapped_once_by_each_wrapper():
    owner = SimpleNamespace(count=lambda: 0)

    def add_one(original):
        return original() + 1

    def add_ten(original):
        return original() + 10

    for wrapper in (add_one, add_ten, add_one, add_ten):
        wrap(owner, "count", wrapper)
    assert owner.count() == 11
