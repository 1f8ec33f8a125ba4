# SPDX-License-Identifier: Apache-2.0
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from datasets import Dataset, DatasetDict
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertTokenizer,
    ResNetConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTImageProcessor,
)

from hf_sidenet.data import collator, load_processor, load_splits, prepare, prepare_splits
from hf_sidenet.data.rows import prepare_rows
from hf_sidenet.models.modalities import IMAGE, TEXT

from ..models import tiny
from .files import datasets, pictures, table


ROOT = Path(__file__).parents[2]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "film", "dull", "lovely"]


@pytest.fixture
def tokenizer():
    return BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}, model_max_length=10**30)


@pytest.fixture
def image_processor():
    return ViTImageProcessor(size={"height": 4, "width": 4}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def named(config_class, *names):
    return config_class(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def load(**paths):
    return load_splits(files={name: str(path) for name, path in paths.items()})


def test_texts(tmp_path, tokenizer):
    rows = [("a film", "negative"), ("dull a film lovely", "positive")]
    splits, columns = load(train=table(tmp_path / "t.tsv", rows), test=table(tmp_path / "v.csv", rows[:1]))
    inputs, names = prepare_splits(splits, columns, named(BertConfig, "POSITIVE", "NEGATIVE"), tokenizer)
    assert names == ["POSITIVE", "NEGATIVE"]
    assert inputs["train"]["labels"][:] == [1, 0]
    assert inputs["train"]["input_ids"][:] == [[2, 4, 5, 3], [2, 6, 4, 5, 7, 3]]
    assert inputs["test"][0]["labels"] == 1
    assert set(inputs["test"].column_names) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    batch = collator(tokenizer, modality=TEXT)([inputs["train"][0], inputs["train"][1]])
    assert batch["input_ids"].tolist() == [[2, 4, 5, 3, 0, 0], [2, 6, 4, 5, 7, 3]]
    assert batch["labels"].tolist() == [1, 0]
    short, _ = prepare_splits(splits, columns, named(BertConfig, "POSITIVE", "NEGATIVE"), tokenizer, max_length=3)
    assert short["train"]["input_ids"][:] == [[2, 4, 3], [2, 6, 3]]


def test_pairs_and_a_column_called_labels(tmp_path, tokenizer):
    path = table(tmp_path / "t.tsv", [("a", "film", 1), ("dull", "a", 0)], ("sentence1", "sentence2", "labels"))
    splits, columns = load(train=path)
    inputs, _ = prepare_splits(splits, columns, BertConfig(), tokenizer)
    assert inputs["train"][0]["input_ids"] == [2, 4, 3, 5, 3]
    assert inputs["train"][0]["token_type_ids"] == [0, 0, 0, 1, 1]
    assert inputs["train"]["labels"][:] == [1, 0]


def test_long_texts_are_cut_at_the_tokenizers_length_but_at_most_512(tmp_path, tokenizer):
    path = table(tmp_path / "t.tsv", [("a " * 600, 0), ("film", 1)])
    splits, columns = load(train=path)
    assert len(prepare(splits["train"], columns, tokenizer, BertConfig())[0]["input_ids"]) == 512
    tokenizer.model_max_length = 16
    assert len(prepare(splits["train"], columns, tokenizer, BertConfig())[0]["input_ids"]) == 16
    with pytest.raises(ValueError, match=r"`max_length` must be at least 1, .* got 0"):
        prepare(splits["train"], columns, tokenizer, BertConfig(), max_length=0)


def test_only_test_rows_take_the_order_of_the_config(tmp_path, tokenizer):
    splits, columns = load(test=table(tmp_path / "t.tsv", [("a", "good"), ("film", "good")]))
    inputs, names = prepare_splits(splits, columns, named(BertConfig, "bad", "good"), tokenizer)
    assert inputs["test"]["labels"][:] == [1, 1]
    assert names == ["bad", "good"]
    with pytest.raises(ValueError, match=r"must contain classes of the MainNet, .* got 'good' in row 1"):
        prepare_splits(splits, columns, named(BertConfig, "no", "yes"), tokenizer)


def test_pictures(tmp_path, image_processor):
    train, test = pictures(tmp_path / "a", mode="L"), pictures(tmp_path / "b", classes=["light"], mode="RGBA")
    splits, columns = load(train=train, test=test)
    inputs, names = prepare_splits(splits, columns, named(ResNetConfig, "light", "dark"), image_processor)
    assert names == ["light", "dark"]
    row = inputs["train"][0]
    assert row.keys() == {"pixel_values", "labels"}
    assert row["labels"] == 1
    assert torch.equal(row["pixel_values"], torch.full((3, 4, 4), -1.0))
    assert inputs["test"][0]["labels"] == 0
    batch = collator(image_processor, modality=IMAGE)([row, inputs["train"][3]])
    assert batch["pixel_values"].shape == (2, 3, 4, 4)
    assert batch["labels"].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"`max_length` must be .* None for images, got 8"):
        prepare(splits["train"], columns, image_processor, ResNetConfig(), max_length=8)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_pictures_come_in_the_mainnets_channels(mode, num_channels):
    config = tiny.resnet(num_channels=num_channels, num_labels=2).config
    values = [0.5] * num_channels
    processor = ViTImageProcessor(size={"height": 4, "width": 4}, image_mean=values, image_std=values)
    picture = Image.new("L", (8, 8), 255)
    picture = Image.new("I;16", (8, 8), 255) if mode == "I;16" else picture.convert("RGB").convert(mode)
    rows = datasets.Dataset.from_dict({"image": [picture, picture], "label": [0, 1]}).cast_column(
        "image", datasets.Image()
    )
    prepared = prepare_rows({"test": rows}, config, processor, modality=IMAGE)["test"]
    assert torch.equal(prepared.dataset[0]["pixel_values"], torch.ones(num_channels, 4, 4))


def test_rows_without_labels(tmp_path, tokenizer, image_processor):
    splits, columns = load(train=table(tmp_path / "t.tsv", [("a", 0), ("film", 1)]))
    rows = prepare(splits["train"].remove_columns("label"), columns, tokenizer, BertConfig())
    batch = collator(tokenizer, modality=TEXT)([rows[0], rows[1]])
    assert batch.keys() == {"input_ids", "token_type_ids", "attention_mask"}
    splits, columns = load(train=pictures(tmp_path / "p"))
    rows = prepare(splits["train"].remove_columns("label"), columns, image_processor, ResNetConfig())
    assert collator(image_processor, modality=IMAGE)([rows[0]]).keys() == {"pixel_values"}


def test_processors_are_found_next_to_the_model(tmp_path, tokenizer, image_processor):
    tiny.bert().save_pretrained(tmp_path / "text")
    tiny.resnet_with_sidenet().save_pretrained(tmp_path / "image")
    for name, modality, file in (("text", TEXT, "tokenizer.json"), ("image", IMAGE, "preprocessor_config.json")):
        for folder in (tmp_path / name, tmp_path / "nothing"):
            with pytest.raises(ValueError, match=f"`model_name_or_path` must have .* without {file}; save it next to"):
                load_processor(str(folder), modality)
    tokenizer.save_pretrained(tmp_path / "text")
    image_processor.save_pretrained(tmp_path / "image")
    assert load_processor(str(tmp_path / "text"), TEXT)("a film")["input_ids"] == [2, 4, 5, 3]
    assert load_processor(str(tmp_path / "image"), IMAGE, trust_remote_code=False).size["height"] == 4


def test_timm_models_carry_theirs_in_the_config(tmp_path):
    pytest.importorskip("timm", reason='needs pip install "hf_sidenet[vision]"')
    described = {"input_size": [3, 16, 16], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear"}
    model_args = {"channels": [8, 8, 16, 16]}
    config = TimmWrapperConfig(architecture="resnet10t", model_args=model_args, num_labels=2, pretrained_cfg=described)
    TimmWrapperForImageClassification(config).save_pretrained(tmp_path / "timm")
    processor = load_processor(str(tmp_path / "timm"), IMAGE)
    splits, columns = load(train=pictures(tmp_path / "p"))
    inputs, _ = prepare_splits(splits, columns, config, processor, labels=["dark", "light"])
    batch = collator(processor, modality=IMAGE)([inputs["train"][0], inputs["train"][3]])
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "timm").eval()
    assert model(**batch).logits.shape == (2, 2)


def test_a_tokenizer_that_cannot_pad(tokenizer):
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="`pad_token`, got None"):
        collator(tokenizer, modality=TEXT)


@pytest.mark.medium
def test_the_room_is_imported_without_datasets():
    code = "import sys; sys.modules['datasets'] = None; import hf_sidenet.data"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


ROWS = [{"text": "good", "label": 0}, {"text": "bad", "label": 1}]


@pytest.mark.parametrize(
    ("rows", "instead"),
    [
        (pandas.DataFrame(ROWS), r"a DataFrame. Pass `datasets.Dataset.from_pandas\(rows\)`"),
        (ROWS, r"a list. Pass `datasets.Dataset.from_list\(rows\)` for dicts"),
        (["good", "bad"], "a list. Pass .* for dicts"),
        ({"text": ["good"], "label": [0]}, r"a dict. Pass `datasets.Dataset.from_dict\(rows\)`"),
        (
            DatasetDict(train=Dataset.from_list(ROWS)),
            r"a DatasetDict. Pass one of its splits, such as `rows\['train'\]`",
        ),
        (Dataset.from_list(ROWS).to_iterable_dataset(), r"an? IterableDataset. Pass `datasets.Dataset.from_list"),
        (iter(ROWS), "a list_iterator. Pass .*, because rows are read more than once"),
        ("train.csv", "a str. Pass `datasets.load_dataset"),
    ],
)
def test_what_is_no_data_set_is_refused_with_what_to_give(rows, instead, tokenizer):
    with pytest.raises(ValueError, match=f"`train` must be a `datasets.Dataset`, got {instead}"):
        prepare_rows({"train": rows}, BertConfig(), tokenizer, modality=TEXT)


# --- rows that are already model inputs


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_inputs_that_the_tokenizer_does_not_know_are_padded_with_the_tokens(tokenizer, side, kind):
    tokenizer.padding_side = side
    rows = [
        {"input_ids": kind([4]), "bbox": kind([[1, 2, 3, 4]]), "lang": kind([8, 9]), "labels": 1},
        {"input_ids": kind([5, 6, 7]), "bbox": kind([[5, 6, 7, 8]] * 3), "lang": kind([6, 5]), "labels": 0},
    ]
    batch = collator(tokenizer, modality=TEXT)(rows)
    assert batch["attention_mask"].tolist() == [[1, 0, 0] if side == "right" else [0, 0, 1], [1, 1, 1]]
    boxes = [[1, 2, 3, 4], [0] * 4, [0] * 4]
    assert batch["bbox"].tolist() == [boxes if side == "right" else boxes[::-1], [[5, 6, 7, 8]] * 3]
    assert batch["lang"].tolist() == [[8, 9], [6, 5]]
    assert batch["labels"].tolist() == [1, 0]
    # Nothing else changes: neither the rows nor a batch without such inputs.
    assert "attention_mask" not in rows[0]
    assert set(collator(tokenizer, modality=TEXT)([{"input_ids": [4, 5]}])) == {"input_ids", "attention_mask"}


def test_inputs_that_nobody_can_pad(tokenizer):
    rows = [{"input_ids": [4], "entity_ids": [1]}, {"input_ids": [5, 6], "entity_ids": [1, 2]}]
    with pytest.raises(ValueError, match="`entity_ids` must have one entry per token, one size in all rows"):
        collator(tokenizer, modality=TEXT)(rows)
    rows = [{"input_ids": [4, 5], "bbox": [[1, 1, 2, 2]]}, {"input_ids": [5, 6], "bbox": [[1, 1, 2, 2]] * 2}]
    with pytest.raises(ValueError, match="`bbox` must have one entry per token, one size in all rows"):
        collator(tokenizer, modality=TEXT)(rows)


def test_tokenized_rows_keep_their_columns(tokenizer):
    rows = Dataset.from_dict({"input_ids": [[4], [5, 6]], "bbox": [[[1] * 4], [[2] * 4] * 2], "labels": [0, 1]})
    made = prepare_rows({"test": rows}, named(BertConfig, "a", "b"), tokenizer, modality=TEXT)["test"]
    batch = made.collate_fn([made.dataset[0], made.dataset[1]])
    assert batch["bbox"].tolist() == [[[1] * 4, [0] * 4], [[2] * 4] * 2]
    other = Dataset.from_dict({**rows.to_dict(), "bbox": [[[1] * 4], [[3] * 4] * 2]})
    moved = prepare_rows({"test": other}, named(BertConfig, "a", "b"), tokenizer, modality=TEXT)["test"]
    assert made.contents[0] == moved.contents[0]
    assert made.contents[1] != moved.contents[1]


def test_masks_of_images_are_stacked():
    rows = [
        {
            "pixel_values": torch.ones(3, 4, 4),
            "attention_mask": torch.tensor([1, i]),
            "labels": i,
            "id": 7,
            "file": "a",
        }
        for i in range(2)
    ]
    batch = collator(None, modality=IMAGE)(rows)
    assert {name: value.tolist() for name, value in batch.items() if name != "pixel_values"} == {
        "attention_mask": [[1, 0], [1, 1]],
        "labels": [0, 1],
    }
