# SPDX-License-Identifier: Apache-2.0
import re

import pytest
from transformers import HfArgumentParser, TrainingArguments

from hf_sidenet import SideNetConfig
from hf_sidenet.training import MainNetArguments, SideNetArguments


def parse(*words):
    return HfArgumentParser((MainNetArguments, SideNetArguments)).parse_args_into_dataclasses(list(words))


def test_defaults():
    mainnet, sidenet = parse()
    assert (mainnet, sidenet) == (MainNetArguments(), SideNetArguments())
    assert mainnet.loading() == {"revision": "main", "token": None, "trust_remote_code": False}
    assert mainnet.overrides() == {}
    assert (sidenet.exit_layers, sidenet.thresholds, sidenet.sidenet_learning_rate) == (None, None, None)


def test_default_fields_are_those_of_the_config():
    fields = {**SideNetArguments().config_fields(), "exit_layers": [1]}
    assert SideNetConfig(**fields).to_dict() == SideNetConfig(exit_layers=[1]).to_dict()


def test_as_typed():
    mainnet, sidenet = parse(
        *("--model_name_or_path", "me/bert", "--revision", "v1", "--token", "x", "--trust_remote_code"),
        *("--config_overrides", '{"num_hidden_layers": 2}', "--exit_layers", "1", "3", "--pooling", "cls", "mean"),
        *("--alpha", "0.5", "--freeze_mainnet", "none", "--mainnet_head", "mlp", "--distillation_weight", "0.25"),
        *("--distillation_temperature", "2", "--sidenet_hidden_size", "8", "--thresholds", "0.5", "0.9"),
        *("--sidenet_learning_rate", "1e-3", "--max_accuracy_drop", "0.01", "--ignore_mismatched_sizes"),
    )
    assert mainnet.model_name_or_path == "me/bert"
    assert mainnet.loading() == {"revision": "v1", "token": "x", "trust_remote_code": True}
    assert mainnet.overrides() == {"num_hidden_layers": 2}
    assert mainnet.ignore_mismatched_sizes
    assert sidenet.config_fields() == {
        "exit_layers": [1, 3],
        "pooling": ["cls", "mean"],
        "alpha": 0.5,
        "sidenet_hidden_size": 8,
        "freeze_mainnet": "none",
        "mainnet_head": "mlp",
        "distillation_weight": 0.25,
        "distillation_temperature": 2.0,
    }
    assert (sidenet.thresholds, sidenet.max_accuracy_drop, sidenet.sidenet_learning_rate) == ([0.5, 0.9], 0.01, 1e-3)


def test_no_name_is_taken_twice(tmp_path):
    parser = HfArgumentParser((MainNetArguments, SideNetArguments, TrainingArguments))
    *_, training = parser.parse_args_into_dataclasses(["--output_dir", str(tmp_path), "--learning_rate", "0.1"])
    assert training.learning_rate == 0.1


@pytest.mark.parametrize("words", [["--freeze_mainnet", "some"], ["--mainnet_head", "big"], ["--exit_layers", "one"]])
def test_other_words_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert re.search(rf"argument {words[0]}\S*: invalid", capsys.readouterr().err)


@pytest.mark.parametrize("text", ["", "num_labels=2", "{'a': 1}", "[1]", "null", "3"])
def test_overrides_that_are_no_json_object_are_refused(text):
    with pytest.raises(ValueError, match=r"`config_overrides` must be (a )?JSON.*, got "):
        MainNetArguments(config_overrides=text).overrides()
