"""The tests' shortcut to configurations gives those that Hydra composes."""

from dataclasses import fields
from pathlib import Path

import fairseq
import pytest
import yaml
from fairseq import options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
from fairseq.dataclass import utils
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from helpers import composing
from helpers.configurations import CONFIGURATIONS
from helpers.training import OF_A_RUN, command_line


def overrides_of(*flags):
    parser, line = options.get_training_parser(), command_line(["data", *flags])
    known = options.parse_args_and_arch(parser, input_args=line)
    return utils.override_module_args(known)[0]


ADAM = ["--optimizer", "adam"]


@pytest.mark.parametrize(
    ("choices", "values"),
    [
        ([], ["--seed", "7", "--lr", "0.1,0.2", "--save-dir", "it's a=b", "--packed"]),
        (ADAM, ["--adam-eps", "1e-5", "--fp16", "--update-freq", "2,3"]),
        (OF_A_RUN, ["--restore-file", "c.pt", "--adam-betas", "(0.5, 0.6)"]),
    ],
)
def test_values_are_set_in_the_configuration_of_another_command_line(choices, values):
    overrides = overrides_of(*choices, *values)
    with initialize_config_dir(str(Path(fairseq.__file__).parent / "config")):
        expected = composing.compose_with_hydra("config", overrides, strict=False)
    composing.compose("config", overrides_of(*choices), strict=False)
    found = composing.compose("config", overrides, strict=False)
    assert found == expected
    texts = [OmegaConf.to_yaml(cfg, resolve=True) for cfg in (found, expected)]
    assert texts[0] == texts[1]
    assert OmegaConf.is_struct(found) == OmegaConf.is_struct(expected)


@pytest.mark.parametrize(
    ("group", "registered"),
    [("task", TASK_DATACLASS_REGISTRY), ("criterion", CRITERION_DATACLASS_REGISTRY)],
)
def test_the_shipped_configuration_lists_the_options_of_the_plug_in(group, registered):
    listed = yaml.safe_load(next(CONFIGURATIONS.glob("*.yaml")).read_text("utf-8"))
    stock = {field.name for field in fields(registered["sentence_prediction"])}
    ours = {
        field.name: field.default
        for field in fields(registered["sentence_prediction_scl"])
        if field.name not in stock and not str(field.default).startswith("${")
    }
    assert ours
    assert {key: listed[group].get(key, "missing") for key in ours} == ours
