# SPDX-License-Identifier: Apache-2.0
"""Two processes under DDP train like one that takes both their micro-batches, and evaluate every row once."""

import json

import pytest
import torch
from safetensors.torch import load_file

from hf_sidenet import compute_exit_metrics
from hf_sidenet.models import BertWithSideNetForSequenceClassification

from . import cases, loop
from .launch import launch


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("ddp")
    launch("run_ddp", root)
    return root


def read(folder, name):
    return load_file(folder / f"{name}.safetensors"), json.loads((folder / f"{name}.json").read_text())


@pytest.mark.parametrize("kind", ["", "-all-used"])
@pytest.mark.parametrize("name", cases.CASES)
def test_same_losses_and_weights_as_one_process(folder, name, kind, tmp_path):
    found, _ = read(folder, name + kind)
    model = cases.build(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trainer = cases.make_trainer(
        model, name, cases.arguments(tmp_path, gradient_accumulation_steps=2), callbacks=[cases.StatisticsOfRank0()]
    )
    trainer.train()
    torch.testing.assert_close(found["losses"], torch.tensor(cases.logged(trainer)), atol=1e-4, rtol=0)
    assert len(found["losses"]) == cases.STEPS
    assert len(set(found["losses"].tolist())) == cases.STEPS
    for key, value in model.state_dict().items():
        torch.testing.assert_close(found[f"weights.{key}"], value, atol=1e-4, rtol=1e-4, msg=key)
    moved = [key for key, value in before.items() if not torch.equal(value, found[f"weights.{key}"])]
    assert any(key.startswith("mainnet.") for key in moved) == (cases.CASES[name]["freeze_mainnet"] != "all")


def test_batchnorm_statistics_are_those_of_rank_0(folder, tmp_path):
    # The comparison above leaves rank 1 out; with it, everything but the statistics still agrees.
    found, _ = read(folder, "resnet-joint")
    model = cases.build("resnet-joint")
    cases.make_trainer(model, "resnet-joint", cases.arguments(tmp_path, gradient_accumulation_steps=2)).train()
    differing = {
        key
        for key, value in model.state_dict().items()
        if not torch.allclose(found[f"weights.{key}"].float(), value.float(), atol=1e-4, rtol=1e-4)
    }
    assert differing
    assert all(key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in differing)
    assert any(key.startswith("mainnet.") for key in differing)


@pytest.mark.parametrize("kind", ["off", "on"])
def test_predictions_hold_every_row_once_and_in_order(folder, kind, tmp_path):
    found, metrics = read(folder, f"predict-{kind}")
    model = cases.build("several", thresholds=1.0 if kind == "off" else cases.MIDDLE)
    data = cases.rows("several", 37, seed=1)
    with torch.no_grad():
        expected = model(**cases.stacked(data))
    assert torch.equal(found["labels"], torch.stack([row["labels"] for row in data]))
    assert torch.equal(found["exit_index"], expected.exit_index)
    for name in ("logits", "exit_logits"):
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=1e-5, equal_nan=True)
    function = compute_exit_metrics() if kind == "off" else cases.routed_accuracy
    alone = cases.make_trainer(model, "several", cases.arguments(tmp_path), compute_metrics=function)
    expected_metrics = alone.predict(data).metrics
    names = {name for name in metrics if "exit_" in name or "accuracy" in name or "early" in name}
    assert len(names) >= 2
    for name in names:
        assert metrics[name] == pytest.approx(expected_metrics[name], abs=1e-5, nan_ok=True), name
    assert (set(expected.exit_index.tolist()) == {3}) == (kind == "off")


def test_ranks_evaluate_with_one_set_of_statistics(folder):
    data = cases.rows("joint", 37, seed=1)
    differ = {}
    for kind in ("own", "same"):
        model = BertWithSideNetForSequenceClassification.from_pretrained(folder / f"trained-{kind}")
        with torch.no_grad():
            expected = model(**cases.stacked(data)).exit_logits
        found, _ = read(folder, f"trained-{kind}")
        differ[kind] = ((found["exit_logits"] - expected).abs() > 1e-5).any(-1).any(-1)
    assert not differ["same"].any()
    # Without the callback: the rows of rank 1, which takes every second batch.
    on_rank_1 = torch.arange(37) // cases.BATCH % 2 == 1
    assert torch.equal(differ["own"], on_rank_1)


def test_a_plain_loop_trains_and_evaluates_as_with_one_process(folder):
    found, values = read(folder, "loop")
    assert values == {"processes": 2}
    data = cases.rows("joint", 37, seed=1)
    accelerator, model, losses = loop.train(cases.build("joint"), cases.rows("joint", 40), accumulation=2)
    torch.testing.assert_close(found["losses"], losses.view(-1, 2).mean(1), atol=1e-4, rtol=0)
    for key, value in model.named_parameters():
        torch.testing.assert_close(found[f"weights.{key}"], value.data, atol=1e-4, rtol=1e-4, msg=key)
    weights = {k.removeprefix("weights."): v for k, v in found.items() if k.startswith("weights.")}
    model.load_state_dict(weights)
    expected = loop.evaluate(accelerator, model, data, cases.MIDDLE)
    assert torch.equal(expected["labels"], torch.stack([row["labels"] for row in data]))
    assert len(set(expected["exit_index"].tolist())) == 2
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-5, equal_nan=True, msg=name)
