# SPDX-License-Identifier: Apache-2.0
import json
import os
import shutil
from collections import namedtuple
from itertools import count

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from transformers import GPT2Config, GPT2ForSequenceClassification, ViTConfig, ViTForImageClassification

from hf_sidenet.io.locks import folder_lock
from hf_sidenet.models import (
    BertWithSideNetForSequenceClassification,
    SideNetForImageClassification,
    SideNetForSequenceClassification,
)
from hf_sidenet.training.features import Candidate, default_candidates
from tests.models import tiny
from tests.models.naive import without_hooks

from .feature_cases import NUM_ROWS, cache, collate, contents, model, rows
from .feature_processes import launch


def count_calls(sidenets):
    calls = []
    sidenets.mainnet.register_forward_hook(lambda *_: calls.append(None))
    return calls


def in_order_of_the_data(name, padded):
    """Inputs of all rows as one batch."""
    batch = collate(rows(name, padded))
    batch.pop("labels")
    return batch


@pytest.mark.parametrize(
    ("name", "padded", "pooling"),
    [("bert", True, "mean"), ("bert", True, "cls"), ("bert", False, "mean"), ("resnet", True, "gap"),
     ("resnet", True, "flatten")],
)  # fmt: skip
def test_sidenets_read_from_the_cache_what_they_read_in_the_model(name, padded, pooling, tmp_path):
    sidenets = model(name)
    candidates = default_candidates(sidenets, poolings=[pooling])
    assert [candidate.exit_layer for candidate in candidates] == [1, 2, 3]
    data = rows(name, padded)
    features = cache(tmp_path, name, sidenets, data, candidates=candidates)
    layers, kwargs = [1, 2, 3], {"pooling": pooling, "input_size": [3, 32, 32] if name == "resnet" else None}
    kind = type(sidenets)
    whole = kind.from_mainnet(sidenets.mainnet, exit_layers=layers, **kwargs)
    with torch.no_grad():
        expected = whole(**in_order_of_the_data(name, padded), thresholds=1.0).exit_logits
        for i, candidate in enumerate(candidates):
            found = whole.sidenets[i](features.features(candidate))
            torch.testing.assert_close(found, expected[:, i])
    torch.testing.assert_close(features.mainnet_logits, expected[:, -1])
    assert features.labels.tolist() == [row["labels"].item() for row in data]
    assert len(features) == NUM_ROWS


@pytest.mark.parametrize("name", ["bert", "resnet"])
def test_mainnet_logits_are_those_of_the_plain_mainnet(name, tmp_path):
    sidenets, data = model(name), rows(name)
    features = cache(tmp_path, name, sidenets, batch_size=1)
    plain = without_hooks(sidenets.mainnet)
    with torch.no_grad():
        for row, logits in zip(data, features.mainnet_logits, strict=True):
            inputs = {key: value.unsqueeze(0) for key, value in row.items() if key != "labels"}
            assert torch.equal(plain(**inputs).logits[0], logits)


def test_texts_run_once_each_from_long_to_short(tmp_path):
    sidenets, shapes = model(), []
    sidenets.mainnet.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    cache(tmp_path, sidenets=sidenets)
    assert [batch for batch, _ in shapes] == [2] * 11 + [1]
    widths = [width for _, width in shapes]
    assert widths == sorted(widths, reverse=True)


def test_no_dropout_no_gradient_and_every_mode_put_back(tmp_path):
    mainnet = tiny.bert(hidden_dropout_prob=0.5)
    sidenets = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1], freeze_mainnet="none")
    sidenets.train()
    before = [module.training for module in sidenets.modules()]
    first = cache(tmp_path / "first", sidenets=sidenets)
    assert [module.training for module in sidenets.modules()] == before
    sidenets.eval()
    second = cache(tmp_path / "second", sidenets=sidenets)
    assert contents(first.directory) == contents(second.directory)
    assert not first.mainnet_logits.requires_grad


def test_a_second_call_computes_nothing_and_moves_no_random_numbers(tmp_path):
    sidenets = model()
    calls = count_calls(sidenets)
    state = torch.get_rng_state()
    first = cache(tmp_path, sidenets=sidenets)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(calls) == 12
    second = cache(tmp_path, sidenets=sidenets, batch_size=8, rows_per_shard=5)
    assert len(calls) == 12
    assert second.directory == first.directory
    assert torch.equal(second.mainnet_logits, first.mainnet_logits)


@pytest.mark.parametrize("change", ["weights", "dtype", "data", "fewer rows", "candidates"])
def test_any_change_makes_another_folder(change, tmp_path):
    sidenets, kwargs = model(), {}
    first = cache(tmp_path, sidenets=sidenets)
    if change == "weights":
        with torch.no_grad():
            sidenets.mainnet.classifier.bias[0] += 1e-3
    elif change == "dtype":
        sidenets.to(torch.bfloat16)
    elif change == "data":
        kwargs["data_fingerprint"] = "other rows"
    elif change == "fewer rows":
        kwargs["dataset"] = rows(num_rows=NUM_ROWS - 1)
    else:
        kwargs["candidates"] = first.candidates[1:]
    calls = count_calls(sidenets)
    second = cache(tmp_path, sidenets=sidenets, **kwargs)
    assert len(calls) > 0
    assert second.directory != first.directory
    assert second.directory.parent == first.directory.parent == tmp_path


def test_sidenets_and_the_order_of_candidates_make_no_other_folder(tmp_path):
    sidenets = model()
    first = cache(tmp_path, sidenets=sidenets)
    other = BertWithSideNetForSequenceClassification.from_mainnet(sidenets.mainnet, exit_layers=[2])
    second = cache(tmp_path, sidenets=other, candidates=first.candidates[::-1])
    assert second.directory == first.directory
    assert second.candidates == first.candidates[::-1]


def test_features_have_the_dtype_of_the_model(tmp_path):
    sidenets = model("resnet").to(torch.bfloat16)
    features = cache(tmp_path, "resnet", sidenets)
    candidate = Candidate(2, "gap")
    assert features.features(candidate).dtype == features.mainnet_logits.dtype == torch.bfloat16
    assert features.features(candidate).shape == (NUM_ROWS, 16)


def test_a_candidate_is_read_without_the_others(tmp_path):
    features = cache(tmp_path)
    with safe_open(features.directory / "shard-00000.safetensors", framework="pt") as file:
        names = set(file.keys())
    candidates = {f"features.{i}.{pooling}" for i in (1, 2, 3) for pooling in ("mean", "cls")}
    assert names == {"rows", "mainnet_logits", "labels"} | candidates
    assert features.num_bytes == sum(path.stat().st_size for path in features.directory.glob("*.safetensors"))
    with pytest.raises(ValueError, match=r"must be one of .*'1.mean'.* got"):
        features.features(Candidate(1, "gap"))
    shutil.rmtree(features.directory)
    with pytest.raises(ValueError, match=r"features.json"):
        features.features(features.candidates[0])


def test_the_manifest_says_what_the_features_are_made_from(tmp_path):
    features = cache(tmp_path)
    manifest = json.loads((features.directory / "features.json").read_text())
    assert manifest["fingerprint"] == features.directory.name
    assert manifest["data_fingerprint"] == "rows"
    assert manifest["num_rows"] == NUM_ROWS
    assert manifest["shards"] == [f"shard-{i:05d}.safetensors" for i in range(6)]
    assert manifest["candidates"] == sorted(candidate.name for candidate in features.candidates)
    assert manifest["dtype"] == "float32"


def test_what_another_call_is_writing_stays(tmp_path):
    features = cache(tmp_path)
    manifest, half = features.directory / "features.json", features.directory / ".shard-00001.safetensors.0a.tmp"
    half.touch()
    manifest.unlink()
    with folder_lock(features.directory, shared=True):
        cache(tmp_path)
    assert half.exists()
    manifest.unlink()
    cache(tmp_path)
    assert not half.exists()


def test_rows_without_labels(tmp_path):
    data = [{"input_ids": row["input_ids"]} for row in rows()]
    assert cache(tmp_path, dataset=data).labels is None


def sometimes_labeled(labeled):
    """Labels in every batch for whose number `labeled` says yes."""
    numbers = count()

    def collate_some(chosen):
        batch = collate(chosen)
        return batch if labeled(next(numbers)) else {name: x for name, x in batch.items() if name != "labels"}

    return collate_some


def test_labels_in_some_rows_only_are_refused(tmp_path):
    with pytest.raises(ValueError, match="labels in every row or in none"):
        cache(tmp_path / "in a shard", collate_fn=sometimes_labeled(lambda number: number % 2 == 0))
    features = cache(tmp_path / "in some shards", collate_fn=sometimes_labeled(lambda number: number < 6))
    with pytest.raises(ValueError, match="`labels` must exist for all 23 rows or for none, but 12 have it"):
        features.labels  # noqa: B018 - reads them


def test_a_datasets_dataset_is_read_in_its_order(tmp_path):
    data = rows()
    lists = {name: [row[name].tolist() for row in data] for name in data[0]}
    dataset = Dataset.from_dict(lists).with_format("torch")
    found, expected = cache(tmp_path / "a", dataset=dataset, num_workers=1), cache(tmp_path / "b")
    assert contents(found.directory) == contents(expected.directory)


def test_a_decoder_runs_without_its_cache(tmp_path):
    config = {"n_embd": 32, "n_layer": 3, "n_head": 2, "vocab_size": 99, "num_labels": 3, "pad_token_id": 0}
    mainnet = GPT2ForSequenceClassification(GPT2Config(**config)).eval()
    sidenets = SideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=[1, 2])
    features = cache(tmp_path, sidenets=sidenets)
    with torch.no_grad():
        expected = sidenets(**in_order_of_the_data("bert", True), thresholds=1.0).exit_logits
        for i in range(2):
            found = sidenets.sidenets[i](features.features(Candidate(i + 1, "mean")))
            torch.testing.assert_close(found, expected[:, i])
    torch.testing.assert_close(features.mainnet_logits, expected[:, -1])


def cut_off(path):
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)


def copy_another(path):
    shutil.copy(path.with_name("shard-00000.safetensors"), path)


@pytest.mark.parametrize("damage", [os.remove, cut_off, copy_another, lambda path: path.write_bytes(b"")])
def test_a_damaged_shard_is_computed_again_and_no_other(damage, tmp_path):
    sidenets = model()
    features = cache(tmp_path, sidenets=sidenets)
    before = contents(features.directory)
    damage(features.directory / "shard-00003.safetensors")
    calls = count_calls(sidenets)
    cache(tmp_path, sidenets=sidenets)
    assert len(calls) == 2
    assert contents(features.directory) == before


@pytest.mark.parametrize("manifest", ["", "{}", "[]", '{"format": "other"}', None])
def test_without_a_manifest_the_shards_are_kept(manifest, tmp_path):
    sidenets = model()
    features = cache(tmp_path, sidenets=sidenets)
    before = contents(features.directory)
    path = features.directory / "features.json"
    path.unlink() if manifest is None else path.write_text(manifest)
    calls = count_calls(sidenets)
    cache(tmp_path, sidenets=sidenets)
    assert len(calls) == 0
    assert contents(features.directory) == before


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed")
    launch("killed", folder)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("when", ["during", "writing"])
def test_a_killed_call_goes_on_to_the_same_bytes(killed, when, tmp_path):
    whole = cache(tmp_path)
    (left,) = (killed / when).iterdir()
    assert {path.name for path in left.glob("shard-*")} == {"shard-00000.safetensors", "shard-00001.safetensors"}
    assert len(list(left.glob(".*.tmp"))) == (when == "writing")
    sidenets = model()
    calls = count_calls(sidenets)
    resumed = cache(killed / when, sidenets=sidenets)
    assert len(calls) == 8
    assert contents(resumed.directory) == contents(whole.directory)


def test_another_cut_of_the_rows_leaves_no_old_shards(tmp_path):
    whole = cache(tmp_path / "whole", rows_per_shard=12)
    features = cache(tmp_path / "other")
    (features.directory / "features.json").unlink()
    cache(tmp_path / "other", rows_per_shard=12)
    assert contents(features.directory) == contents(whole.directory)


def test_a_disk_that_is_too_small_is_refused_before_the_mainnet_runs(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    sidenets = model()
    calls = count_calls(sidenets)
    # 6 candidates of width 32 and 3 logits in float32, a row number and a label.
    needed = NUM_ROWS * ((6 * 32 + 3) * 4 + 16)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed - 1))
    with pytest.raises(OSError, match=r"`directory` .* room for 18308 bytes .* has 18307 bytes free") as error:
        cache(tmp_path, sidenets=sidenets)
    assert str(tmp_path) in str(error.value)
    assert len(calls) == 0
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed))
    features = cache(tmp_path, sidenets=sidenets)
    # What is there needs no room.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, needed / 5))
    (features.directory / "shard-00003.safetensors").unlink()
    cache(tmp_path, sidenets=sidenets)


def test_the_estimate_is_near_the_truth(tmp_path):
    features = cache(tmp_path, "resnet", candidates=[Candidate(1, "flatten")], rows_per_shard=23)
    estimate = NUM_ROWS * ((8 * 8 * 8 + 3) * 4 + 16)
    assert features.num_bytes == pytest.approx(estimate, rel=0.02)


def test_default_candidates_are_what_fits():
    assert [candidate.name for candidate in default_candidates(model())] == [
        "1.mean", "1.cls", "2.mean", "2.cls", "3.mean", "3.cls"
    ]  # fmt: skip
    images = model("resnet")
    assert default_candidates(images) == [Candidate(layer, "gap") for layer in (1, 2, 3)]
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    patches = SideNetForImageClassification.from_mainnet(
        ViTForImageClassification(ViTConfig(**config)), exit_layers=[1]
    )
    assert default_candidates(patches) == [Candidate(1, "mean"), Candidate(1, "cls")]
    assert default_candidates(images, [2], ["gap", "flatten"]) == [Candidate(2, "gap"), Candidate(2, "flatten")]


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("bert", {"exit_layers": [4]}, "`exit_layer` must be between 1 and 3, got 4"),
        ("bert", {"exit_layers": [0]}, "`exit_layer` must be between 1 and 3, got 0"),
        ("bert", {"exit_layers": []}, "`exit_layers` and `poolings` must name one place or more"),
        ("bert", {"exit_layers": [1, 1]}, "`candidates` must be distinct"),
        ("bert", {"poolings": ["flatten"]}, "needs inputs of one size"),
        ("bert", {"poolings": ["gap"]}, "does not fit a sequence"),
        ("bert", {"poolings": ["max"]}, "`pooling` must be one of"),
        ("bert", {"poolings": ["auto"]}, "`pooling` must be one of"),
        ("resnet", {"poolings": ["mean"]}, "does not fit a feature map"),
    ],
)
def test_impossible_candidates_are_refused(name, kwargs, message):
    with pytest.raises(ValueError, match=message):
        default_candidates(model(name), **kwargs)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"candidates": [Candidate(1, "mean")] * 2}, "`candidates` must be distinct"),
        ({"candidates": [Candidate(9, "mean")]}, "`exit_layer` must be"),
        ({"batch_size": 0}, "`batch_size` must be ≥ 1"),
        ({"rows_per_shard": 0}, "`rows_per_shard` must be ≥ 1"),
        ({"dataset": []}, "`dataset` must have at least one row"),
        ({"collate_fn": lambda chosen: collate(chosen[:1])}, "`collate_fn` must keep every row"),
        (
            {"collate_fn": lambda chosen: {**collate(chosen), "idx": 1}},
            "does not take `idx`",
        ),
        ({"collate_fn": lambda chosen: {**collate(chosen), "labels": [7] * len(chosen)}}, r"`labels` must be in"),
    ],
)
def test_impossible_arguments_are_refused(kwargs, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        cache(tmp_path, **kwargs)
    assert not list(tmp_path.glob("*/*"))


def test_the_mainnets_logits_alone(tmp_path):
    assert torch.equal(cache(tmp_path, candidates=[]).mainnet_logits, cache(tmp_path / "all").mainnet_logits)


def test_sharded_parameters_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_sidenet.training.features.has_sharded_parameters", lambda module: True)
    with pytest.raises(ValueError, match="all parameters on every process"):
        cache(tmp_path)


def test_flattened_images_of_another_size_are_refused(tmp_path):
    data = [{"pixel_values": torch.randn(3, 48, 48)}]
    with pytest.raises(ValueError, match=r"inputs of the SideNets' size, \[3, 32, 32\]"):
        cache(tmp_path, "resnet", dataset=data, candidates=[Candidate(1, "flatten")])
