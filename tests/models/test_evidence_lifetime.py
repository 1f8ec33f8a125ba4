# SPDX-License-Identifier: Apache-2.0
"""The evidence behind θ goes with what it was for: training, new heads and other θ make it void."""

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from hf_sidenet import BertWithSideNetForSequenceClassification, SideNetConfig

from . import tiny


EVIDENCE = {"targets": [{"target": "accuracy_drop<=0.01"}], "confidence_level": 0.95}


def certified(**kwargs):
    model = tiny.bert_with_sidenets(thresholds=[0.4, 0.5], temperatures=[1.5, 1.5, 1.0], **kwargs)
    model.config.calibration = dict(EVIDENCE)
    return model


@pytest.mark.parametrize("freeze_mainnet", ["all", "body", "none"])
def test_training_drops_it(freeze_mainnet, tmp_path):
    model = certified(freeze_mainnet=freeze_mainnet)
    rows = [{**{name: value[0] for name, value in tiny.texts(1, seed=i).items()}, "labels": i % 3} for i in range(8)]
    arguments = TrainingArguments(
        tmp_path, max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no"
    )
    trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)
    trainer.evaluate()
    assert model.config.calibration == EVIDENCE
    trainer.train()
    assert model.config.calibration is None
    trainer.save_model(tmp_path / "trained")
    assert SideNetConfig.from_pretrained(tmp_path / "trained").calibration is None


def test_a_training_loop_of_ones_own_drops_it():
    model = certified().train()
    assert model.config.calibration == EVIDENCE
    # BatchNorm of the SideNets moves even without a gradient.
    with torch.no_grad():
        model(**tiny.texts(4))
    assert model.config.calibration is None


@pytest.mark.parametrize("load", [BertWithSideNetForSequenceClassification, AutoModelForSequenceClassification])
def test_new_heads_drop_theta_and_evidence(load, tmp_path):
    certified(freeze_mainnet="none").save_pretrained(tmp_path)
    same = load.from_pretrained(tmp_path)
    assert (same.config.thresholds, same.config.calibration) == ([0.4, 0.5], EVIDENCE)
    new = load.from_pretrained(tmp_path, num_labels=5, ignore_mismatched_sizes=True).eval()
    assert new.config.calibration is None
    assert new.config.thresholds == [1.0, 1.0]
    assert new.config.temperatures == [1.0, 1.0, 1.0]
    assert new(**tiny.texts(4)).exit_index.tolist() == [2] * 4


@pytest.mark.parametrize(("name", "value"), [("thresholds", [0.4, 0.6]), ("thresholds", 0.5), ("temperatures", 2.0)])
def test_other_values_drop_it(name, value, tmp_path):
    model = certified()
    model.save_pretrained(tmp_path)
    setattr(model.config, name, getattr(model.config, name))
    assert model.config.calibration == EVIDENCE
    setattr(model.config, name, value)
    assert model.config.calibration is None
    loaded = BertWithSideNetForSequenceClassification.from_pretrained(tmp_path, **{name: value})
    assert loaded.config.calibration is None


def test_more_exits_drop_it():
    model = certified()
    model.add_exits([2])
    assert model.config.calibration is None
