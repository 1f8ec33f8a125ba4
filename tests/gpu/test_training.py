# SPDX-License-Identifier: Apache-2.0
"""The stock Trainer on a GPU: mixed precision, and training that was interrupted."""

import copy
import math

import pytest
import torch
from transformers import Trainer, TrainingArguments


pytestmark = pytest.mark.gpu


class Rows(torch.utils.data.Dataset):
    """Inputs whose largest of three feature sums says the label, so that there is something to learn."""

    def __init__(self, case, count):
        self.inputs = case.inputs(count)
        features = self.inputs.get("input_ids", self.inputs.get("pixel_values")).flatten(1)
        self.inputs["labels"] = torch.stack([part.float().mean(1) for part in features.chunk(3, dim=1)]).argmax(0)

    def __len__(self):
        return len(self.inputs["labels"])

    def __getitem__(self, i):
        return {name: value[i] for name, value in self.inputs.items()}


def trainer(case, device, folder, mode, precision, epochs):
    model, _ = case.on(device, freeze_mainnet=mode)
    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=16,
        learning_rate=3e-3,
        save_strategy="epoch",
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        seed=0,
        fp16=precision == "fp16",
        bf16=precision == "bf16",
    )
    rows = Rows(case, 64)
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows)


@pytest.mark.parametrize("mode", ["all", "none"])
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_mixed_precision_lowers_the_loss(tiny_case, precision, mode, device, record, tmp_path):
    run = trainer(tiny_case, device, tmp_path, mode, precision, epochs=5)
    before = copy.deepcopy(run.model.mainnet.state_dict())
    first = run.evaluate()["eval_loss"]
    run.train()
    last = run.evaluate()["eval_loss"]
    kept = all(torch.equal(value, before[name]) for name, value in run.model.mainnet.state_dict().items())
    learns = "frozen" if mode == "all" else "joint"
    record(f"Trainer, {precision}, {learns}", tiny_case.name, f"loss {first:.3f} → {last:.3f}")
    assert run.model.device.type == device.type
    assert math.isfinite(last)
    assert last < first
    assert kept == (mode == "all")


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("mode", ["all", "none"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_resuming_gives_the_uninterrupted_weights(tiny_case, precision, mode, device, record, tmp_path, deterministic):
    whole = trainer(tiny_case, device, tmp_path / "whole", mode, precision, epochs=2)
    whole.train()
    resumed = trainer(tiny_case, device, tmp_path / "resumed", mode, precision, epochs=2)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert resumed.state.global_step == 8
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    largest = max((found[name].double() - value.double()).abs().max().item() for name, value in expected.items())
    learns = "frozen" if mode == "all" else "joint"
    value = "bit-equal" if largest == 0 else f"weights differ by {largest:.1e}"
    record(f"resumed is uninterrupted, {precision}, {learns}", tiny_case.name, value)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=name)
