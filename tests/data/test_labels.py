# SPDX-License-Identifier: Apache-2.0
import sys

import pytest
from transformers import BertConfig

from hf_sidenet.data import align_labels


datasets = pytest.importorskip("datasets")


def mainnet(*names):
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def rows(values, names=None):
    columns = {"text": [str(value) for value in values], "label": list(values)}
    made = datasets.Dataset.from_dict(columns)
    return made if names is None else made.cast_column("label", datasets.ClassLabel(names=names))


def align(config, names=None, *, labels=None, new_head=False, **splits):
    splits = {key: rows(values, names) for key, values in splits.items()}
    splits, found = align_labels(splits, "label", config, labels=labels, new_head=new_head)
    for part in splits.values():
        assert isinstance(part.features["label"], datasets.ClassLabel)
        assert part.features["label"].num_classes == len(found)
    return {key: part["label"][:] for key, part in splits.items()}, found


UNNAMED = mainnet("LABEL_0", "LABEL_1")


def test_class_labels_take_the_mainnets_order():
    splits, names = align(mainnet("good", "bad", "mixed"), ["bad", "mixed", "good"], train=[0, 1, 2], test=[2, 2])
    assert names == ["good", "bad", "mixed"]
    assert splits == {"train": [1, 2, 0], "test": [0, 0]}


@pytest.mark.parametrize("names", [None, ["negative", "positive"]])
def test_names_take_the_mainnets_order(names):
    train = ["negative", "positive"] if names is None else [0, 1]
    splits, found = align(mainnet("POSITIVE", "NEGATIVE"), names, train=train, test=train[:1])
    assert found == ["POSITIVE", "NEGATIVE"]
    assert splits == {"train": [1, 0], "test": [1]}


def test_names_without_an_order_are_refused():
    with pytest.raises(ValueError, match=r"`labels` must name the MainNet's 2 outputs in order"):
        align(UNNAMED, train=["unfavorable", "favorable"])
    splits, names = align(UNNAMED, train=["favorable", "unfavorable"], labels=["unfavorable", "favorable"])
    assert (splits["train"], names) == ([1, 0], ["unfavorable", "favorable"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([True, False], [1, 0]),
        (["True", "false "], [1, 0]),
        ([1.0, 0.0], [1, 0]),
        (["1.0", "0"], [1, 0]),
        ([1, 0], [1, 0]),
        (["LABEL_1", "label 0"], [1, 0]),
    ],
)
def test_labels_of_every_type(values, expected):
    assert align(mainnet("false", "true"), train=values)[0]["train"] == expected


def test_classes_that_are_missing_move_no_other():
    config = mainnet(*[f"LABEL_{i}" for i in range(20)])
    present = [i for i in range(20) if i != 3]
    for values in (present, [str(i) for i in present], [float(i) for i in present]):
        splits, _ = align(config, train=values, validation=values[5:])
        assert splits == {"train": present, "validation": present[5:]}


def test_folders_of_pictures_have_an_order_that_nobody_gave():
    made = rows([0, 1, 2], ["class_10", "class_2", "class_3"])
    made.info.builder_name = "imagefolder"
    splits, _ = align_labels({"train": made}, "label", mainnet("class_2", "class_3", "class_10"))
    assert splits["train"]["label"][:] == [2, 0, 1]
    unnamed = mainnet("LABEL_0", "LABEL_1", "LABEL_2")
    with pytest.raises(ValueError, match="`labels` must name the MainNet's 3 outputs"):
        align_labels({"train": made}, "label", unnamed)
    _, names = align_labels({"train": made}, "label", unnamed, new_head=True)
    assert names == ["class_10", "class_2", "class_3"]
    made.info.builder_name = None
    splits, _ = align_labels({"train": made}, "label", unnamed)
    assert splits["train"]["label"][:] == [0, 1, 2]


@pytest.mark.parametrize("config", [UNNAMED, mainnet("one", "two", "three")])
def test_a_new_head_learns_the_order_of_the_data(config):
    splits, names = align(config, train=["no", "yes", "yes"], new_head=True)
    assert (splits["train"], names) == ([0, 1, 1], ["no", "yes"])
    splits, names = align(config, ["yes", "no"], train=[0, 1], new_head=True)
    assert (splits["train"], names) == ([0, 1], ["yes", "no"])


def test_a_new_head_may_have_another_number_of_classes():
    splits, names = align(UNNAMED, train=[1, 0, 2], test=[2], new_head=True)
    assert names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert splits == {"train": [1, 0, 2], "test": [2]}


@pytest.mark.parametrize("names", [None, ["mixed", "good"]])
@pytest.mark.parametrize("new_head", [False, True])
def test_a_mainnet_may_know_more_classes(names, new_head):
    train = ["mixed", "good"] if names is None else [0, 1]
    splits, found = align(mainnet("good", "bad", "mixed"), names, train=train, new_head=new_head)
    assert found == ["good", "bad", "mixed"]
    assert splits == {"train": [2, 0]}


def test_a_class_that_only_the_mainnet_and_test_have():
    splits, _ = align(mainnet("good", "bad", "mixed"), train=["bad", "good"], test=["mixed"])
    assert splits["test"] == [2]


def test_a_mainnet_with_the_same_name_twice():
    # ImageNet has two cranes.
    splits, names = align(mainnet("crane", "crane"), train=[1, 0])
    assert (splits["train"], names) == ([1, 0], ["crane", "crane"])


def test_columns_with_the_right_classes_are_not_written_again():
    made = {"train": rows([0, 1]).cast(datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(2)))}
    splits, _ = align_labels(made, "label", mainnet("0", "1"))
    assert splits["train"] is made["train"]
    splits, _ = align_labels(made, "label", mainnet("1", "0"))
    assert splits["train"]["label"][:] == [1, 0]


@pytest.mark.parametrize(
    ("train", "new_head", "message"),
    [
        (["a", "a"], True, r"`label_column` must contain at least two classes, got \['a'\]"),
        (["a", None, "b"], False, "`train` must have a label in every row, but row 2 has none"),
        (["a", "b", " "], True, "`train` must have a label in every row, but row 3 has none"),
        ([0.5, 1.5], True, "`label_column` must contain names or indices of classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(train, new_head, message):
    with pytest.raises(ValueError, match=message):
        align(UNNAMED, train=train, new_head=new_head)


@pytest.mark.parametrize(
    ("names", "train", "test", "message"),
    [
        (None, ["b", "a"], ["a", "c"], r"\['b', 'a'\], got 'c' in row 2"),
        (None, [0, 1], [2], r"\['b', 'a'\], got '2' in row 1"),
        (["a", "b"], [0, 1], [1, 1, -1], r"\['b', 'a'\], got '-1' in row 3"),
    ],
)
def test_a_class_that_the_mainnet_has_not_is_named_with_its_row(names, train, test, message):
    with pytest.raises(ValueError, match=f"^`test` must contain classes of the MainNet, {message}"):
        align(mainnet("b", "a"), names, train=train, test=test)


def test_a_class_that_train_has_not_is_refused_where_the_head_is_new():
    with pytest.raises(ValueError, match=r"^`test` must contain classes of train, \['a', 'b'\], got 'c' in row 2"):
        align(UNNAMED, train=["a", "b"], test=["a", "c"], new_head=True)


@pytest.mark.parametrize(
    ("config", "names", "test", "expected"),
    [
        (mainnet("POSITIVE", "NEGATIVE"), None, ["negative", "negative"], [1, 1]),
        (mainnet("POSITIVE", "NEGATIVE"), ["negative"], [0, 0], [1, 1]),
        (UNNAMED, None, [1], [1]),
        (UNNAMED, ["no", "yes"], [1], [1]),
        (mainnet("crane", "crane"), None, [1], [1]),
    ],
)
def test_without_train_rows_are_numbered_as_with_it(config, names, test, expected):
    splits, found = align(config, names, test=test)
    assert splits == {"test": expected}
    assert len(found) == 2
    assert align(config, names, train=test, test=test)[0]["test"] == expected


@pytest.mark.parametrize("config", [UNNAMED, mainnet("good", "bad")])
@pytest.mark.parametrize("other", [rows([0, 1, 1], ["bad", "good"]), rows(["bad", "good", "GOOD"])])
def test_splits_that_number_classes_in_different_ways(config, other):
    splits, names = align_labels({"train": rows([0, 1], ["good", "bad"]), "test": other}, "label", config)
    assert [names[0], names[1]] == (["good", "bad"])
    assert splits["test"]["label"][:] == [1, 0, 0]
    assert splits["train"].features["label"] == splits["test"].features["label"]


def test_without_datasets_the_pip_line_is_named(monkeypatch):
    train = {"train": rows([0, 1])}
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "hf_sidenet\[train\]"'):
        align_labels(train, "label", mainnet("a", "b"))
