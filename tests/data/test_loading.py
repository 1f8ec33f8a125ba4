# SPDX-License-Identifier: Apache-2.0
import logging
import sys

import pytest

from hf_sidenet.data import Columns, load_splits

from .files import TEXTS, datasets, pictures, save, table


PAIR = [("Is it?", "It is.", 1), ('"Why', "so", 0)]


@pytest.fixture
def warnings():
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = sys.modules[load_splits.__module__].logger
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def files(**paths):
    return {name: str(path) for name, path in paths.items()}


def columns_of(rows, *names):
    return list(zip(*(rows[name][:] for name in names), strict=True))


def test_every_kind_of_file_and_kinds_mixed(tmp_path):
    for kind in ("csv", "tsv", "json", "jsonl", "parquet"):
        other = save(tmp_path / ("v.jsonl" if kind == "parquet" else "v.parquet"))
        path = save(tmp_path / f"t.{kind}")
        splits, columns = load_splits(files=files(validation=other, train=path))
        assert columns == Columns(("text",), "label", "text")
        assert list(splits) == ["train", "validation"]
        assert [columns_of(rows, "text", "label") for rows in splits.values()] == [TEXTS, TEXTS], kind


def test_any_subset_of_the_splits(tmp_path):
    path = save(tmp_path / "t.csv")
    given = files(train=path, test=path)
    assert list(load_splits(files=files(test=path))[0]) == ["test"]
    assert list(load_splits(files=given, splits=["test"])[0]) == ["test"]
    assert list(load_splits(files=given, required=["train", "test"])[0]) == ["train", "test"]


def test_quotation_marks_and_words_like_null_are_text(tmp_path):
    rows = [('"Quoted', "a"), ('the "best"', "b"), ('end"', "a"), ("null", "NA")]
    splits, _ = load_splits(files=files(train=table(tmp_path / "t.tsv", rows)))
    assert columns_of(splits["train"], "text", "label") == rows
    splits, _ = load_splits(files=files(train=table(tmp_path / "t.csv", [('"one, two"', "a"), ("None", "b")])))
    assert columns_of(splits["train"], "text", "label") == [("one, two", "a"), ("None", "b")]


CELLS = [("007", "01"), ("5", "true"), ("1e5", "1.0"), ("true", "10"), ("inf", "2026-01-02")]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
@pytest.mark.parametrize("header", [True, False])
def test_every_cell_of_a_table_is_a_text(tmp_path, kind, header):
    path = table(tmp_path / f"t.{kind}", CELLS, columns=("text", "label") if header else None)
    splits, _ = load_splits(files=files(train=path), no_header=not header)
    assert columns_of(splits["train"], "text", "label") == CELLS
    if header:
        folder = tmp_path / "data"
        folder.mkdir()
        path.rename(folder / f"train.{kind}")
        splits, _ = load_splits(dataset_name=str(folder))
        assert columns_of(splits["train"], "text", "label") == CELLS


def test_columns_that_are_empty_or_have_no_name_or_the_same(tmp_path):
    path = table(tmp_path / "t.csv", [("a", "", "x", 0), ("b", "", "y", 1)], ("text", "", "text", "label"))
    splits, _ = load_splits(files=files(train=path))
    assert splits["train"].column_names == ["text", "column 2", "text_", "label"]
    assert columns_of(splits["train"], "text", "column 2", "label") == [("a", None, "0"), ("b", None, "1")]


def test_files_without_a_header_line(tmp_path):
    path = table(tmp_path / "t.tsv", [('"a', 0), ("b", 1)], columns=None)
    splits, columns = load_splits(files=files(train=path), no_header=True)
    assert columns == Columns(("text",), "label", "text")
    assert columns_of(splits["train"], "text", "label") == [('"a', "0"), ("b", "1")]
    path = table(tmp_path / "p.tsv", PAIR, columns=None)
    splits, columns = load_splits(files=files(test=path), no_header=True, text_columns=["q", "s"], label_column="y")
    assert columns == Columns(("q", "s"), "y", "text")
    assert columns_of(splits["test"], "q", "s", "y") == [(*texts, str(label)) for *texts, label in PAIR]


def test_a_local_data_set_with_validation_rows_called_dev(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "dev", "test"):
        table(folder / f"{name}.tsv", [('"a', 0), ("b", 1)])
    splits, _ = load_splits(dataset_name=str(folder))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "validation": 2, "test": 2}
    made = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    for name in ("validation", "valid", "dev", "val"):
        datasets.DatasetDict({name: made, "extra": made}).save_to_disk(tmp_path / name)
        assert list(load_splits(dataset_name=str(tmp_path / name))[0]) == ["validation"]


def test_folders_of_pictures(tmp_path):
    train, test = pictures(tmp_path / "a[1]"), pictures(tmp_path / "b", classes=["light"])
    splits, columns = load_splits(files=files(train=train, test=test))
    assert columns == Columns(("image",), "label", "image")
    assert splits["train"].features["label"].names == ["dark", "light"]
    assert splits["train"]["label"][:] == [0, 0, 1, 1]
    # A folder of one class has labels too.
    assert splits["test"].features["label"].names == ["light"]
    splits["train"].to_parquet(tmp_path / "t.parquet")
    again, columns = load_splits(files=files(train=tmp_path / "t.parquet"))
    assert columns.modality == "image"
    assert again["train"][0]["image"].size == (8, 8)


def test_paths_of_pictures_become_pictures(tmp_path):
    folder = pictures(tmp_path / "p")
    path = table(tmp_path / "t.csv", [(folder / "light" / "0.png", "light")], columns=("image", "label"))
    splits, columns = load_splits(files=files(test=path))
    assert columns == Columns(("image",), "label", "image")
    assert splits["test"][0]["image"].getpixel((0, 0)) == (255, 255, 255)


def test_hidden_labels_are_left_out_with_a_warning(tmp_path, warnings):
    train = table(tmp_path / "t.csv", [("a", 0), ("b", 1)])
    hidden = table(tmp_path / "h.csv", [("a", -1), ("b", -1)])
    splits, _ = load_splits(files=files(train=train, test=hidden))
    assert list(splits) == ["train"]
    assert warnings == ["The labels of the test rows are hidden: leaving these rows out."]
    table(tmp_path / "e.csv", [("a", ""), ("b", "")])
    assert list(load_splits(files=files(train=train, test=tmp_path / "e.csv"))[0]) == ["train"]
    del warnings[1:]
    for given, more in [({"test": hidden}, {}), ({"train": train, "test": hidden}, {"required": ["test"]})]:
        with pytest.raises(ValueError, match=r"`test_file` must have labels.* hidden"):
            load_splits(files=files(**given), **more)
    with pytest.raises(ValueError, match="`train_file` must have labels in train"):
        load_splits(files=files(train=hidden, test=train))


def test_impossible_requests(tmp_path):
    path, folder = save(tmp_path / "t.csv"), pictures(tmp_path / "p" / "deep").parent / "deep" / "dark"
    bare = table(tmp_path / "bare.tsv", [("a", 0), ("b", 1)], columns=None)
    other = table(tmp_path / "o.csv", TEXTS, ("text", "class"))
    for given, message in [
        ({}, "pass one of `dataset_name` and `train_file`"),
        ({"dataset_name": "x", "files": files(train=path)}, "pass one of `dataset_name` and `train_file`"),
        ({"files": files(train=path), "splits": []}, "must name train, validation, test, got none"),
        ({"files": files(dev=path)}, r"must name train, validation, test, got \['dev'\]"),
        ({"files": files(train=path), "required": ["test"]}, r"`test_file` must have test rows, got \['train'\]"),
        ({"files": files(train=path), "splits": ["test"]}, "`test_file` must have test rows, got no wanted split"),
        ({"files": files(train=path), "dataset_config": "sst2"}, "`dataset_config` must be used with `dataset_name`"),
        ({"files": files(train=folder)}, "`train_file` must have one subfolder per class, got .*, which has none"),
        (
            {"files": files(train=folder.parent), "no_header": True},
            "`no_header` must not be given if `train_file` is not a csv",
        ),
        (
            {"files": files(train=bare)},
            r"`label_column` must be given .*For a file without a header line: `no_header`",
        ),
        ({"files": files(train=path), "no_header": True, "text_columns": ["a", "b"]}, r"\['a', 'b', 'label'\], got 2"),
        ({"files": files(train=path, test=other)}, r"`test_file` must have a column 'label', got \['text', 'class'\]"),
        ({"dataset_name": "nobody/nothing"}, "`dataset_name` 'nobody/nothing' could not be read: "),
        ({"dataset_name": "x", "no_header": True}, "`no_header` must not be given with `dataset_name`"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            load_splits(**given)
        assert "\n" not in str(error.value)
    made = datasets.Dataset.from_dict({"text": ["a"], "label": [0]})
    datasets.DatasetDict({"extra": made, "train": made}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"`dataset_name` '.*saved' must have test rows, got \['extra', 'train'\]"):
        load_splits(dataset_name=str(tmp_path / "saved"), splits=["test"])


def test_without_datasets_the_pip_line_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "t.csv")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "hf_sidenet\[train\]"'):
        load_splits(files=files(train=path))
