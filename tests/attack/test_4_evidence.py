# SPDX-License-Identifier: Apache-2.0
"""Evidence is about one set of weights and settings, and its numbers fit each other; else nothing is certified."""

import copy
import json
import logging

import pytest
import torch

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.hub import check_shareable
from hf_sidenet.inference import SideNetRunner
from hf_sidenet.inference.certificate import why_not_certified
from hf_sidenet.models.configuration_sidenet import SideNetConfig

from ..hub.folder import save_folder


@pytest.fixture
def folder(tmp_path):
    return save_folder(tmp_path)


def change(folder, edit):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    edit(config)
    path.write_text(json.dumps(config))


def of_risk(**fields):
    return lambda config: config["calibration"]["targets"][0].update(fields)


CHANGES = {
    "p above the level": (of_risk(p_value=0.2), "p-value of 0.2, which is above its level"),
    "p of another test": (of_risk(p_value=1e-5), "its counts give"),
    "a target that was not tested": (of_risk(target="accuracy_drop<=0.0001"), "its counts give"),
    "fewer harmed rows": (of_risk(num_bad=0), "its counts give"),
    "more rows than there were": (of_risk(num_rows=10**6), "counts 1000000 rows of 800"),
    "another level": (lambda config: config["calibration"].update(level_per_target=0.2), "level per target is 0.2"),
    "more confidence": (lambda config: config["calibration"].update(confidence_level=0.999), "level per target"),
    "θ": (lambda config: config.update(thresholds=[0.1, 0.1]), "θ changed"),
    "temperatures": (lambda config: config.update(temperatures=[1.0, 2.0, 1.0]), "its temperatures changed"),
    "classes": (lambda config: config.update(id2label={"0": "x", "1": "y", "2": "z"}), "its classes changed"),
    "another activation": (lambda config: config["mainnet_config"].update(hidden_act="relu"), "`hidden_act` of its"),
}


@pytest.mark.parametrize(("edit", "says"), CHANGES.values(), ids=CHANGES)
def test_what_was_changed_is_said_everywhere(edit, says, folder, caplog):
    assert check_shareable(folder).errors == []
    change(folder, edit)
    with caplog.at_level(logging.WARNING, logger="hf_sidenet"):
        model, tokenizer = load_checkpoint(folder)
    assert "Not certified: " in caplog.text
    assert says in caplog.text
    assert says in why_not_certified(model, tokenizer)
    assert says in SideNetRunner(model, tokenizer).not_certified
    assert any(says in error for error in check_shareable(folder).errors)


def test_another_tokenizer(folder):
    path = folder / "tokenizer.json"
    document = json.loads(path.read_text())
    vocabulary = document["model"]["vocab"]
    vocabulary["good"], vocabulary["bad"] = vocabulary["bad"], vocabulary["good"]
    path.write_text(json.dumps(document))
    reason = why_not_certified(*load_checkpoint(folder, check=False))
    assert "the tokenizer or image processor is not the one" in reason


def test_other_weights_of_a_sidenet(folder):
    model, tokenizer = load_checkpoint(folder)
    assert why_not_certified(model, tokenizer) is None
    with torch.no_grad():
        next(model.sidenets[0].parameters()).add_(1e-3)
    assert why_not_certified(model, tokenizer) == "its weights are not those for which θ was certified"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("thresholds", [0.1, 0.2]),
        ("temperatures", [2.0, 1.0, 1.0]),
        ("id2label", {0: "x", 1: "y", 2: "z"}),
        ("exit_layers", [1, 2]),
        ("pooling", ["cls", "mean"]),
    ],
)
def test_setting_a_certified_field_clears_the_evidence(name, value, folder):
    config = SideNetConfig.from_pretrained(folder)
    setattr(config, name, copy.deepcopy(getattr(config, name)))
    assert config.calibration is not None
    setattr(config, name, value)
    assert config.calibration is None
