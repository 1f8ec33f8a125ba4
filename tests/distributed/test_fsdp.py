# SPDX-License-Identifier: Apache-2.0
"""Parameters sharded over two processes whose rows leave at different exits: no deadlock, and the same answers."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from . import cases
from .launch import launch


pytestmark = pytest.mark.distributed


def easy_and_hard(model, name):
    """Batches in turn, easy and hard: rank 0 takes those that all leave at the first SideNet, rank 1 those that stay.

    Returns:
        `(rows, thresholds)`
    """
    pool = cases.rows(name, 200, seed=2)
    with torch.no_grad():
        confidence = model(**cases.stacked(pool)).exit_logits[:, 0].softmax(-1).amax(-1)
    order = confidence.argsort().tolist()
    hard, easy = order[:16], order[-16:]
    last, first = confidence[hard[-1]].item(), confidence[easy[0]].item()
    assert first - last > 0.01
    batches = zip(torch.tensor(easy).split(cases.BATCH), torch.tensor(hard).split(cases.BATCH), strict=True)
    chosen = [pool[i] for pair in batches for i in torch.cat(pair)]
    return chosen, [(first + last) / 2] + [1.0] * (len(model.sidenets) - 1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Every case in one process: losses, model and the rows to evaluate."""
    found = {}
    for name in cases.BLOCKS:
        args = cases.arguments(tmp_path_factory.mktemp(name), gradient_accumulation_steps=2)
        trainer = cases.make_trainer(cases.build(name), name, args, callbacks=[cases.StatisticsOfRank0()])
        trainer.train()
        model = trainer.model.eval()
        data, model.config.thresholds = easy_and_hard(model, name)
        found[name] = (torch.tensor(cases.logged(trainer)), model, data)
    return found


@pytest.fixture(scope="module")
def folder(alone, tmp_path_factory):
    root = tmp_path_factory.mktemp("fsdp")
    for name, (_, model, data) in alone.items():
        tensors = {key: torch.stack([row[key] for row in data]) for key in data[0]}
        save_file({**tensors, "thresholds": torch.tensor(model.config.thresholds)}, root / f"{name}.rows.safetensors")
    launch("run_fsdp", root)
    return root


@pytest.mark.parametrize(("name", "version"), cases.SHARDED)
def test_ranks_whose_rows_leave_at_different_exits(alone, folder, name, version):
    losses, model, data = alone[name]
    found = load_file(folder / f"{name}-{version}.safetensors")
    assert found["numel"] < 0.6 * model.num_parameters()
    torch.testing.assert_close(found["losses"], losses, atol=1e-4, rtol=0)
    with torch.no_grad():
        expected = model(**cases.stacked(data))
    last = len(model.sidenets)
    assert found["exit_index"].view(-1, 2, cases.BATCH).tolist() == [[[0] * cases.BATCH, [last] * cases.BATCH]] * 4
    assert torch.equal(found["exit_index"], expected.exit_index)
    for key in ("logits", "exit_logits"):
        torch.testing.assert_close(found[key], expected[key], atol=1e-4, rtol=1e-4, equal_nan=True, msg=key)


@pytest.mark.parametrize(("name", "version"), cases.SHARDED)
def test_the_checkpoint_answers_the_same_in_one_process(alone, folder, name, version):
    data = alone[name][-1]
    found = load_file(folder / f"{name}-{version}.safetensors")
    auto_class = AutoModelForImageClassification if name in cases.IMAGES else AutoModelForSequenceClassification
    loaded = auto_class.from_pretrained(folder / f"{name}-{version}")
    with torch.no_grad():
        answers = loaded(**cases.stacked(data))
    assert torch.equal(answers.exit_index, found["exit_index"])
    for key in ("logits", "exit_logits"):
        torch.testing.assert_close(answers[key], found[key], atol=1e-5, rtol=1e-5, equal_nan=True, msg=key)


@pytest.mark.parametrize(("name", "version"), cases.SHARDED)
def test_the_checkpoint_carries_the_code_of_the_model_it_was(alone, folder, name, version, tmp_path):
    _, model, _ = alone[name]
    model.save_pretrained(tmp_path)
    here, there = tmp_path, folder / f"{name}-{version}"
    assert {path.name for path in there.glob("*.py")} == {path.name for path in here.glob("*.py")}
    configs = [json.loads((path / "config.json").read_text()) for path in (here, there)]
    for field in ("auto_map", "architectures"):
        assert configs[0][field] == configs[1][field]
