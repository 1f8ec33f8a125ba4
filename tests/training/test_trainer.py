# SPDX-License-Identifier: Apache-2.0
"""The stock Trainer on tiny models: frozen, body and joint, with everything people switch on."""

import copy
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from hf_sidenet import compute_exit_metrics
from hf_sidenet.data import collator
from hf_sidenet.models.modalities import TEXT

from ..models import test_modeling_layoutlm, tiny


class Rows(torch.utils.data.Dataset):
    """Texts whose first token says the label, so that there is something to learn."""

    def __init__(self, count, seed=0):
        self.input_ids = tiny.texts(count, seed)["input_ids"]
        self.labels = self.input_ids[:, 0] % 3

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return {"input_ids": self.input_ids[i], "labels": self.labels[i]}


def trainer(model, tmp_path, rows=65, metrics=None, callbacks=None, **kwargs):
    arguments = {
        "output_dir": tmp_path,
        "per_device_train_batch_size": 16,
        "learning_rate": 1e-2,
        "num_train_epochs": 2,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "epoch",
        "save_strategy": "no",
        "seed": 0,
        "use_cpu": True,
    }
    return Trainer(
        model,
        TrainingArguments(**{**arguments, **kwargs}),
        train_dataset=Rows(rows),
        eval_dataset=Rows(37, seed=1),
        compute_metrics=metrics or compute_exit_metrics(model),
        callbacks=callbacks,
    )


@pytest.mark.parametrize("mode", ["all", "body", "none"])
def test_training_lowers_the_loss_and_moves_only_what_may_move(mode, tmp_path):
    model = tiny.bert_with_sidenets(freeze_mainnet=mode, pooling="cls")
    before = copy.deepcopy(model.mainnet.state_dict())
    # 65 rows in batches of 16: the last batch has one row.
    run = trainer(model, tmp_path, num_train_epochs=4)
    first = run.evaluate()
    run.train()
    last = run.evaluate()
    assert last["eval_loss"] < first["eval_loss"]
    assert last["eval_exit_0_accuracy"] > first["eval_exit_0_accuracy"]
    moved = {name for name, value in model.mainnet.state_dict().items() if not torch.equal(value, before[name])}
    if mode == "all":
        assert not moved
    elif mode == "body":
        assert moved == {"classifier.weight", "classifier.bias"}
    else:
        assert len(moved) > 10


def test_a_frozen_resnet_keeps_its_batchnorm_statistics(tmp_path):
    model = tiny.resnet_with_sidenet()
    before = copy.deepcopy(model.mainnet.state_dict())
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": torch.tensor(i % 3)} for i in range(20)]
    run = trainer(model, tmp_path)
    run.train_dataset = run.eval_dataset = rows
    run.train()
    assert all(torch.equal(value, before[name]) for name, value in model.mainnet.state_dict().items())


def test_predictions_are_complete_and_in_order(tmp_path):
    model = tiny.bert_with_sidenets()
    run = trainer(model, tmp_path, per_device_eval_batch_size=8)
    model.config.keep_exits_at_inference()
    prediction = run.predict(run.eval_dataset)
    logits, exit_index, exit_logits = prediction.predictions
    assert logits.shape == (37, 3)
    assert exit_index.shape == (37,)
    assert exit_logits.shape == (37, 3, 3)
    with torch.no_grad():
        output = model.eval()(input_ids=run.eval_dataset.input_ids, thresholds=1.0)
    torch.testing.assert_close(torch.from_numpy(exit_logits), output.exit_logits, atol=1e-5, rtol=1e-5)
    assert prediction.metrics["test_exit_2_share"] == 1.0


def test_evaluation_with_exits_on_says_what_to_do(tmp_path):
    model = tiny.bert_with_sidenets(thresholds=0.0)
    with pytest.raises(ValueError, match="exits off"):
        trainer(model, tmp_path).evaluate()
    routed = trainer(model, tmp_path, metrics=lambda p: {"early": float((p.predictions[1] == 0).mean())})
    assert routed.evaluate()["eval_early"] == 1.0


def test_metrics_of_any_classifier_work(tmp_path):
    """The line that everybody's `compute_metrics` has: predictions are the routed logits alone."""
    model = tiny.bert_with_sidenets(thresholds=0.5)

    def accuracy(prediction):
        answers = np.argmax(prediction.predictions, axis=-1)
        return {"accuracy": float((answers == prediction.label_ids).mean())}

    run = trainer(model, tmp_path, metrics=accuracy)
    with torch.no_grad():
        output = model.eval()(input_ids=run.eval_dataset.input_ids)
    assert 0 < output.exit_index.float().mean() < 2
    prediction = run.predict(run.eval_dataset)
    torch.testing.assert_close(torch.from_numpy(prediction.predictions), output.logits, atol=1e-5, rtol=1e-5)
    labels = torch.from_numpy(prediction.label_ids)
    assert run.evaluate()["eval_accuracy"] == pytest.approx((output.logits.argmax(-1) == labels).double().mean())
    model.save_pretrained(tmp_path / "saved")
    run.compute_metrics = compute_exit_metrics(model)
    model.config.thresholds = 1.0
    assert len(run.predict(run.eval_dataset).predictions) == 3
    model.config.thresholds = 0.5
    # What was asked for here is not asked for where the checkpoint goes.
    model.save_pretrained(tmp_path / "asked")
    assert (tmp_path / "asked" / "config.json").read_text() == (tmp_path / "saved" / "config.json").read_text()


def test_gradient_accumulation_divides_the_loss(tmp_path):
    losses = []
    for steps in (1, 2):
        torch.manual_seed(0)
        model = tiny.bert_with_sidenets()
        run = trainer(
            model, tmp_path, rows=32, num_train_epochs=1, gradient_accumulation_steps=steps, learning_rate=0.0,
            per_device_train_batch_size=32 // steps, logging_strategy="steps", logging_steps=1,
        )  # fmt: skip
        run.train()
        losses.append([entry["loss"] for entry in run.state.log_history if "loss" in entry])
    assert len(losses[0]) == len(losses[1]) == 1
    # BatchNorm sees half the rows, so the two agree only roughly; a loss that is not divided would be twice as big.
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.3)


def test_plateau_early_stopping_and_best_model(tmp_path):
    model = tiny.bert_with_sidenets()
    run = trainer(
        model, tmp_path, num_train_epochs=12, learning_rate=0.5, optim="adamw_torch", weight_decay=0.0,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"factor": 1 / 3, "patience": 1, "mode": "min"},
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, metric_for_best_model="loss",
        greater_is_better=False, callbacks=[EarlyStoppingCallback(5)],
    )  # fmt: skip
    run.train()
    rates = [entry["learning_rate"] for entry in run.state.log_history if "learning_rate" in entry]
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert rates[0] == pytest.approx(0.5)
    assert any(rate == pytest.approx(0.5 / 3) for rate in rates)
    assert run.state.best_metric == pytest.approx(min(losses))
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.parametrize("mode", ["all", "none"])
def test_resume_gives_the_uninterrupted_weights(mode, tmp_path):
    def run(folder, **kwargs):
        torch.manual_seed(0)
        model = tiny.bert_with_sidenets(freeze_mainnet=mode)
        model.mainnet.config.hidden_dropout_prob = 0.0
        return trainer(model, folder, save_strategy="epoch", num_train_epochs=2, **kwargs)

    whole = run(tmp_path / "whole")
    whole.train()
    resumed = run(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-5"))
    assert resumed.state.global_step == 10
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, msg=name)


def test_trainer_checkpoints_carry_their_code(tmp_path):
    run = trainer(tiny.bert_with_sidenets(), tmp_path, save_strategy="epoch", num_train_epochs=1)
    run.train()
    checkpoint = tmp_path / "checkpoint-5"
    assert (checkpoint / "modeling_sidenet.py").exists()
    assert (checkpoint / "model.safetensors").exists()
    assert not (checkpoint / "pytorch_model.bin").exists()


def test_bf16_training_on_cpu(tmp_path):
    run = trainer(tiny.bert_with_sidenets(), tmp_path, bf16=True, num_train_epochs=1)
    run.train()
    assert math.isfinite(run.evaluate()["eval_loss"])


def test_metrics_at_theta(tmp_path):
    model = tiny.bert_with_sidenets()
    run = trainer(model, tmp_path, metrics=compute_exit_metrics(model, thresholds=0.6))
    metrics = run.evaluate()
    with torch.no_grad():
        routed = model(input_ids=run.eval_dataset.input_ids, thresholds=0.6)
    for i in range(3):
        assert metrics[f"eval_exit_{i}_share"] == pytest.approx((routed.exit_index == i).float().mean().item())
    right = (routed.logits.argmax(-1) == run.eval_dataset.labels).float().mean().item()
    assert metrics["eval_accuracy"] == pytest.approx(right)


# --- inputs of the MainNet's own


def pages(count, seed=0):
    """Rows whose boxes say the label; the tokens say nothing."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (count,), generator=generator).tolist()
    labels = [i % 3 for i in range(count)]
    corners = [
        torch.randint(0, 10, (length, 2), generator=generator) + 15 * label
        for length, label in zip(lengths, labels, strict=True)
    ]
    return Dataset.from_dict(
        {
            "input_ids": [torch.randint(3, 99, (length,), generator=generator).tolist() for length in lengths],
            "bbox": [torch.cat([each, each + 5], dim=1).tolist() for each in corners],
            "labels": labels,
            "file": ["page.png"] * count,
        }
    )


def test_trainer_keeps_the_boxes_and_learns_from_them(tmp_path):
    model = test_modeling_layoutlm.TestLayoutLM().model(freeze_mainnet="none")
    run = trainer(model, tmp_path, num_train_epochs=6, learning_rate=5e-3)
    run.train_dataset, run.eval_dataset = pages(48), pages(30, seed=1)
    run.data_collator = collator(tiny.tokenizer(), TEXT)
    seen = []
    hook = model.mainnet.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    with_boxes = run.evaluate()["eval_loss"]
    hook.remove()
    first = run.eval_dataset[0]
    length = len(first["input_ids"])
    assert seen[0]["bbox"][0, :length].tolist() == first["bbox"]
    assert seen[0]["bbox"].shape == (*seen[0]["input_ids"].shape, 4)
    assert set(seen[0]) == {"input_ids", "attention_mask", "bbox", "return_dict"}
    moved = run.eval_dataset.map(lambda row: {"bbox": [[0, 0, 1, 1]] * len(row["bbox"])})
    assert abs(run.evaluate(moved)["eval_loss"] - with_boxes) > 1e-3
    assert abs(run.evaluate(run.eval_dataset.remove_columns("bbox"))["eval_loss"] - with_boxes) > 1e-3
    run.train()
    assert run.evaluate()["eval_accuracy"] > 0.9
    # Without the boxes there is nothing to learn.
    assert run.evaluate(run.eval_dataset.remove_columns("bbox"))["eval_accuracy"] < 0.6


def test_trainer_does_not_train_on_what_the_mainnet_does_not_take(tmp_path):
    run = trainer(tiny.bert_with_sidenets(), tmp_path)
    run.train_dataset, run.data_collator = pages(16), collator(tiny.tokenizer(), TEXT)
    with pytest.raises(ValueError, match="BertForSequenceClassification does not take `bbox`"):
        run.train()
