# SPDX-License-Identifier: Apache-2.0
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import PredictionOutput

from hf_sidenet.measurement.records import FORMAT, ExitRecords, collect
from tests.models.naive import every_exit

from .models import texts, tiny_bert, tiny_resnet


def some_records(num_rows=5):
    logits = torch.randn(num_rows, 3, 4)
    return ExitRecords(logits, torch.arange(num_rows) % 4, logits[:, -1])


def same(first, second):
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("exit_logits", "labels", "mainnet_logits")
    )


def test_collect_records_every_exit_in_order():
    model = tiny_bert()
    batches = [texts(4, seed=0), texts(1, length=5, seed=1)]
    records = collect(model, batches, progress=False)
    expected = [every_exit(model, {k: v for k, v in batch.items() if k != "labels"}) for batch in batches]
    torch.testing.assert_close(records.exit_logits, torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert torch.equal(records.labels, torch.cat([batch["labels"] for batch in batches]))
    assert torch.equal(records.mainnet_logits, records.exit_logits[:, -1])
    assert (len(records), records.num_exits) == (5, 3)
    assert not records.exit_logits.requires_grad


def test_collect_ignores_the_models_own_thresholds():
    model = tiny_bert()
    model.config.thresholds = [0.0, 0.0]
    assert not collect(model, [texts(6)], progress=False).exit_logits.isnan().any()


def test_collect_takes_a_dataloader_of_images():
    model = tiny_resnet()
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": i % 3} for i in range(5)]
    records = collect(model, DataLoader(rows, batch_size=2), progress=False)
    assert records.labels.tolist() == [0, 1, 2, 0, 1]
    pixels = torch.stack([row["pixel_values"] for row in rows])
    with torch.no_grad():
        plain = model.mainnet(pixel_values=pixels).logits
    torch.testing.assert_close(records.mainnet_logits, plain, rtol=1e-5, atol=1e-6)


def test_collect_takes_mainnet_logits_from_a_reference_in_its_own_precision():
    model, reference = tiny_bert(), tiny_bert().mainnet.to(torch.bfloat16)
    records = collect(model, [texts(3)], reference=reference, progress=False)
    assert (records.exit_logits.dtype, records.mainnet_logits.dtype) == (torch.float32, torch.bfloat16)
    inputs = {name: value for name, value in texts(3).items() if name != "labels"}
    with torch.no_grad():
        assert torch.equal(records.mainnet_logits, reference.eval()(**inputs).logits)


def test_collect_gives_images_to_each_model_in_its_own_dtype():
    model, reference = tiny_resnet().to(torch.bfloat16), tiny_resnet().mainnet
    batch = {"pixel_values": torch.randn(2, 3, 32, 32), "labels": torch.tensor([0, 1])}
    records = collect(model, [batch], reference=reference, progress=False)
    assert (records.exit_logits.dtype, records.mainnet_logits.dtype) == (torch.bfloat16, torch.float32)


def test_collect_puts_every_submodules_mode_back():
    model = tiny_bert()
    model.set_freeze_mainnet("none")
    model.train()
    model.mainnet.bert.encoder.layer[2].eval()
    before = [module.training for module in model.modules()]
    running_mean = model.sidenets[0].norm.running_mean.clone()
    collect(model, [texts(4)], progress=False)
    assert [module.training for module in model.modules()] == before
    assert torch.equal(model.sidenets[0].norm.running_mean, running_mean)
    with pytest.raises(ValueError, match="labels"):
        collect(model, [{"input_ids": torch.ones(1, 2, dtype=torch.long)}], progress=False)
    assert [module.training for module in model.modules()] == before


def test_collect_leaves_rows_labeled_minus_100_out():
    model, batch = tiny_bert(), texts(4)
    batch["labels"] = torch.tensor([1, -100, 2, -100])
    records = collect(model, [batch], reference=model.mainnet, progress=False)
    full = collect(model, [{**batch, "labels": torch.tensor([1, 0, 2, 0])}], progress=False)
    assert same(records, full.select([0, 2]))


@pytest.mark.parametrize("batches", [[], [texts(0)]])
def test_collect_needs_rows(batches):
    with pytest.raises(ValueError, match="`dataloader` must yield at least one row"):
        collect(tiny_bert(), batches, progress=False)


def test_collect_needs_labels_that_are_class_indices():
    batch = texts(2)
    del batch["labels"]
    with pytest.raises(ValueError, match="batch 1 has only"):
        collect(tiny_bert(), [texts(2), batch], progress=False)
    for labels in (torch.tensor([0, 3]), torch.tensor([0.0, 1.0]), torch.tensor([0])):
        with pytest.raises(ValueError, match="`labels` must"):
            collect(tiny_bert(), [{**batch, "labels": labels}], progress=False)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"exit_logits": torch.zeros(2, 3)}, "exit_logits"),
        ({"exit_logits": torch.zeros(2, 1, 4)}, "exit_logits"),
        ({"exit_logits": torch.zeros(2, 3, 4, dtype=torch.long)}, "exit_logits"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, "labels"),
        ({"labels": torch.zeros(2)}, "labels"),
        ({"labels": torch.tensor([0, 4])}, "labels"),
        ({"labels": torch.tensor([0, -1])}, "labels"),
        ({"mainnet_logits": torch.zeros(2, 5)}, "mainnet_logits"),
        ({"mainnet_logits": torch.zeros(2, 4, dtype=torch.long)}, "mainnet_logits"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, name):
    good = {
        "exit_logits": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, dtype=torch.long),
        "mainnet_logits": torch.zeros(2, 4),
    }
    ExitRecords(**good)
    with pytest.raises(ValueError, match=f"`{name}` must"):
        ExitRecords(**{**good, **fields})


def test_select():
    records = some_records()
    chosen = records.select([3, 0])
    assert torch.equal(chosen.exit_logits, records.exit_logits[[3, 0]])
    assert chosen.labels.tolist() == [3, 0]
    assert torch.equal(chosen.mainnet_logits, records.mainnet_logits[[3, 0]])
    assert same(records.select(records.labels == 0), records.select(torch.tensor([0, 4])))
    assert len(records.select([])) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_is_equal(tmp_path, dtype):
    records = some_records()
    records = ExitRecords(records.exit_logits.to(dtype), records.labels, records.mainnet_logits)
    path = tmp_path / "val.safetensors"
    records.save(path)
    some_records(2).save(tmp_path / "other.safetensors")
    loaded = ExitRecords.load(str(path))
    assert same(records, loaded)
    assert loaded.exit_logits.dtype == dtype
    assert sorted(os.listdir(tmp_path)) == ["other.safetensors", "val.safetensors"]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "val.safetensors"
    records = some_records()
    records.save(path)
    broken = some_records(3)
    object.__setattr__(broken, "labels", broken.labels.to("meta"))
    with pytest.raises(Exception, match="meta"):
        broken.save(path)
    assert same(ExitRecords.load(path), records)
    assert os.listdir(tmp_path) == ["val.safetensors"]


def test_load_refuses_what_is_damaged(tmp_path):
    path = tmp_path / "val.safetensors"
    some_records().save(path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cannot be read"):
        ExitRecords.load(path)
    with pytest.raises(FileNotFoundError):
        ExitRecords.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("change", "metadata", "message"),
    [
        ({}, None, "metadata"),
        ({}, {**FORMAT, "version": "999"}, "999"),
        ({"labels": None}, FORMAT, r"must contain .*'labels'"),
        ({"more": torch.zeros(1)}, FORMAT, "must contain"),
        ({"labels": torch.zeros(1, dtype=torch.long)}, FORMAT, "val.safetensors.*`labels` must"),
    ],
)
def test_load_refuses_other_files(tmp_path, change, metadata, message):
    tensors = {
        "exit_logits": torch.zeros(2, 3, 4),
        "labels": torch.zeros(2, dtype=torch.long),
        "mainnet_logits": torch.zeros(2, 4),
    }
    tensors = {name: tensor for name, tensor in {**tensors, **change}.items() if tensor is not None}
    save_file(tensors, tmp_path / "val.safetensors", metadata=metadata)
    with pytest.raises(ValueError, match=message):
        ExitRecords.load(tmp_path / "val.safetensors")


def predictions(exit_logits, labels):
    rows = len(exit_logits)
    return PredictionOutput((exit_logits[:, -1], np.full(rows, exit_logits.shape[1] - 1), exit_logits), labels, {})


def test_from_predictions():
    exit_logits = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    records = ExitRecords.from_predictions(predictions(exit_logits, np.array([0, 3, 1])))
    assert same(
        records,
        ExitRecords(torch.from_numpy(exit_logits), torch.tensor([0, 3, 1]), torch.from_numpy(exit_logits[:, 1])),
    )
    # Not a view: safetensors and in-place changes see two tensors.
    records.mainnet_logits.zero_()
    assert records.exit_logits[0, 1].tolist() == [4, 5, 6, 7]


def test_from_predictions_leaves_rows_without_a_label_out():
    exit_logits = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
    records = ExitRecords.from_predictions(predictions(exit_logits, np.array([-100, 3, -100], dtype=np.int32)))
    assert records.labels.tolist() == [3]
    assert torch.equal(records.exit_logits, torch.from_numpy(exit_logits[1:2]))


def test_from_predictions_of_the_trainer_equals_collect(tmp_path):
    model, batch = tiny_bert(), texts(7)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(7)]
    model.config.output_hidden_states = True
    model.config.keep_exits_at_inference()
    args = TrainingArguments(tmp_path, per_device_eval_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True)
    records = ExitRecords.from_predictions(Trainer(model, args).predict(rows))
    model.config.output_hidden_states = False
    collected = collect(model, [batch], progress=False)
    torch.testing.assert_close(records.exit_logits, collected.exit_logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(records.labels, collected.labels)
    assert torch.equal(records.mainnet_logits, records.exit_logits[:, -1])


def test_the_reference_of_an_ensemble_is_the_mainnet_itself(tmp_path):
    model, batch = tiny_bert(), texts(7)
    weights = [[0.5] * i for i in range(1, model.config.num_exits)]
    with torch.no_grad():
        expected = model.mainnet(**{name: value for name, value in batch.items() if name != "labels"}).logits
    model.config.chain = weights
    collected = collect(model, [batch], progress=False)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(7)]
    model.config.keep_exits_at_inference()
    args = TrainingArguments(tmp_path, per_device_eval_batch_size=4, use_cpu=True, report_to=[], disable_tqdm=True)
    predicted = ExitRecords.from_predictions(Trainer(model, args).predict(rows), chain=weights)
    for records in (collected, predicted):
        torch.testing.assert_close(records.mainnet_logits, expected, rtol=1e-4, atol=1e-4)
        assert (records.exit_logits[:, -1] - expected).abs().max() > 0.01


def test_from_predictions_of_other_things_is_refused():
    exit_logits = np.zeros((3, 2, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="`predictions` must have `label_ids`, got None"):
        ExitRecords.from_predictions(predictions(exit_logits, None))
    plain = PredictionOutput(exit_logits[:, -1], np.zeros(3, dtype=np.int64), {})
    with pytest.raises(ValueError, match=r"`predictions` must contain `exit_logits` .* got shapes \[\(3, 4\)\]"):
        ExitRecords.from_predictions(plain)
    exit_logits[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"1 of 3 rows lack some, because they exited early .* exits off"):
        ExitRecords.from_predictions(predictions(exit_logits, np.zeros(3, dtype=np.int64)))
