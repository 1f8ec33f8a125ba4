# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Image, Value
from transformers import BertForSequenceClassification

from hf_sidenet.io.fingerprint import fingerprint_model, fingerprint_rows, row_keys
from tests.models.tiny import bert, resnet


TEXTS = ["good film", "bad film", "good film"]


def test_equal_texts_in_two_files_have_equal_keys(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label\ngood film,1\nbad film,0\n")
    (tmp_path / "b.jsonl").write_text('{"label": "neg", "text": "bad film"}\n{"label": "pos", "text": "good film"}\n')
    first = Dataset.from_csv(str(tmp_path / "a.csv"), cache_dir=str(tmp_path / "cache"))
    second = Dataset.from_json(str(tmp_path / "b.jsonl"), cache_dir=str(tmp_path / "cache"))
    assert row_keys(first) == row_keys(second)[::-1]
    assert len(set(row_keys(first))) == 2
    assert row_keys(first) == row_keys([{"text": text} for text in TEXTS[:2]])


def test_the_keys_do_not_change_from_process_to_process():
    # printf 'text:9:good film' | b2sum -l 128
    assert row_keys([{"text": "good film"}]) == ["42e58eabd564fae5b65cd7977c32a74d"]


def test_labels_do_not_count_and_everything_else_does():
    rows = {"text": TEXTS, "idx": [0, 1, 2], "label": [1, 0, 0], "mainnet_logits": [[0.1], [0.2], [0.3]]}
    assert len(set(row_keys(Dataset.from_dict(rows)))) == 3
    keys = row_keys(Dataset.from_dict(rows), columns=["text"])
    assert keys[0] == keys[2] != keys[1]
    del rows["idx"]
    assert row_keys(Dataset.from_dict(rows)) == keys


def test_order_of_the_columns_counts_when_it_is_given():
    rows = [{"a": "x", "b": "y"}, {"b": "x", "a": "y"}]
    assert row_keys(rows, ["a", "b"])[0] == row_keys(rows, ["b", "a"])[1]
    assert row_keys(rows[:1], ["a", "b"]) != row_keys(rows[:1], ["b", "a"])
    assert row_keys([{"b": "y", "a": "x"}]) == row_keys(rows[:1])


def test_selected_and_shuffled_rows_keep_their_keys():
    dataset = Dataset.from_dict({"text": [str(i) for i in range(2500)]})
    keys = row_keys(dataset)
    assert len(set(keys)) == 2500
    assert row_keys(dataset.select([7, 2400, 3])) == [keys[7], keys[2400], keys[3]]


def test_stored_images_are_neither_decoded_nor_transformed():
    features = Features({"image": Image(), "label": Value("int64")})
    rows = {
        "image": [
            {"bytes": b"no image", "path": "here.png"},
            {"bytes": b"no image", "path": "there.png"},
            {"bytes": None, "path": "a.png"},
            {"bytes": None, "path": "b.png"},
        ],
        "label": [0, 1, 2, 3],
    }
    dataset = Dataset.from_dict(rows, features=features)

    def refuse(batch):
        raise AssertionError("a transform ran")

    keys = row_keys(dataset.with_transform(refuse))
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


@pytest.mark.parametrize("kind", [torch.tensor, np.array, list])
def test_rows_of_numbers_differ_by_value(kind):
    rows = [{"x": kind(values), "labels": i} for i, values in enumerate([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])]
    keys = row_keys(rows)
    assert keys[0] == keys[1] != keys[2]


def test_tensors_differ_by_shape_and_dtype_and_equal_their_arrays():
    x = torch.arange(6)
    variants = [x, x.view(2, 3), x.int(), x.bfloat16(), x.view(2, 3).t()]
    assert len(set(row_keys([{"x": variant} for variant in variants]))) == len(variants)
    assert row_keys([{"x": x.view(2, 3).t()}]) == row_keys([{"x": x.view(2, 3).t().numpy()}])


def test_values_of_every_kind_keep_apart():
    pil = pytest.importorskip("PIL.Image")
    values = [
        None, True, 1, 1.0, "1", b"1", [1], ["1"], [[1], []], [[], [1]], {"a": 1}, {"b": 1}, np.float32(1),
        np.array(["1"], dtype=object), pil.new("L", (1, 2)), pil.new("L", (2, 1)), pil.new("L", (2, 1), 7),
    ]  # fmt: skip
    assert row_keys([{"x": values[13]}]) == row_keys([{"x": ["1"]}])
    values.pop(13)
    assert len(set(row_keys([{"x": value} for value in values]))) == len(values)


@pytest.mark.parametrize(
    ("dataset", "columns", "message"),
    [
        ([{"a": 1}], ["b"], "`columns` must name columns"),
        ([{"a": 1}], [], "at least one name"),
        ([{"a": 1}], "a", "at least one name"),
        ([{"label": 1}], None, "`columns` must name columns"),
        (Dataset.from_dict({"a": [1]}), ["b"], "`columns` must name columns"),
        (Dataset.from_dict({"label": [1]}), None, "`columns` must name columns"),
        ([(1, 2)], None, "dicts as rows"),
        (iter([{"a": 1}]), None, "must be a map-style data set"),
        ([{"a": object()}], None, "contains a object"),
    ],
)
def test_what_cannot_be_hashed_is_refused(dataset, columns, message):
    with pytest.raises(ValueError, match=message):
        row_keys(dataset, columns)


def test_fingerprint_rows_depends_on_rows_and_order():
    keys = row_keys([{"text": text} for text in TEXTS])
    variants = [keys, keys[:2], keys[1::-1], keys[:1], [], ["".join(keys)]]
    assert len({fingerprint_rows(variant) for variant in variants}) == len(variants)
    assert fingerprint_rows(iter(keys)) == fingerprint_rows(keys)


def test_a_saved_model_keeps_its_fingerprint(tmp_path):
    model = bert()
    model.save_pretrained(tmp_path)
    model.requires_grad_(False)
    assert fingerprint_model(BertForSequenceClassification.from_pretrained(tmp_path)) == fingerprint_model(model)


def test_every_weight_buffer_and_setting_changes_the_fingerprint():
    found = set()

    def changed(change):
        torch.manual_seed(0)
        model = resnet()
        with torch.no_grad():
            change(model)
        found.add(fingerprint_model(model))

    changes = [
        lambda model: None,
        lambda model: next(model.parameters()).view(-1)[0].add_(1e-6),
        lambda model: next(model.buffers()).add_(1e-6),
        lambda model: model.to(torch.bfloat16),
        lambda model: setattr(model.config, "hidden_act", "gelu"),
    ]
    for change in changes:
        changed(change)
    assert len(found) == len(changes)
    changed(lambda model: setattr(model.config, "problem_type", "single_label_classification"))
    assert len(found) == len(changes)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_device_does_not_count():
    model = bert().to(torch.bfloat16)
    assert fingerprint_model(model) == fingerprint_model(model.to("cuda"))


def test_weights_that_are_not_loaded_are_refused():
    with pytest.raises(ValueError, match="device 'meta'"):
        fingerprint_model(bert().to("meta"))


def test_a_folder_of_pictures_is_known_by_their_content(tmp_path):
    image_module = pytest.importorskip("PIL.Image", reason='needs pip install "hf_sidenet[vision]"')
    datasets = pytest.importorskip("datasets", reason='needs pip install "hf_sidenet[train]"')
    for split, shades in (("train", (10, 20)), ("validation", (20, 30))):
        (tmp_path / split).mkdir()
        for shade in shades:
            image_module.new("L", (4, 4), shade).save(tmp_path / split / f"{split}-{shade}.png")
    keys = {}
    for split in ("train", "validation"):
        paths = sorted(str(path) for path in (tmp_path / split).iterdir())
        rows = datasets.Dataset.from_dict({"image": paths}).cast_column("image", datasets.Image())
        keys[split] = row_keys(rows)
    assert keys["train"][1] == keys["validation"][0]
    assert len({*keys["train"], *keys["validation"]}) == 3
