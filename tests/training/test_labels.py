# SPDX-License-Identifier: Apache-2.0
import logging
import sys

import pytest
from transformers import BertConfig

from hf_sidenet.training import align_labels


datasets = pytest.importorskip("datasets")


def mainnet(*names):
    return BertConfig(id2label=dict(enumerate(names)), label2id={name: i for i, name in enumerate(names)})


def rows(values, names=None):
    columns = {"text": [str(value) for value in values], "label": list(values)}
    made = datasets.Dataset.from_dict(columns)
    return made if names is None else made.cast_column("label", datasets.ClassLabel(names=names))


def align(config, names=None, **splits):
    splits, found = align_labels({key: rows(values, names) for key, values in splits.items()}, "label", config)
    for part in splits.values():
        assert isinstance(part.features["label"], datasets.ClassLabel)
        assert part.features["label"].num_classes == len(found)
    return {key: part["label"][:] for key, part in splits.items()}, found


@pytest.fixture
def warnings():
    """Messages of the module's logger, which transformers keeps from pytest's own."""
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    logger = sys.modules[align_labels.__module__].logger
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


def test_class_labels_take_the_mainnets_order(warnings):
    splits, names = align(mainnet("good", "bad", "mixed"), ["bad", "mixed", "good"], train=[0, 1, 2], test=[2, 2])
    assert names == ["good", "bad", "mixed"]
    assert splits == {"train": [1, 2, 0], "test": [0, 0]}
    assert not warnings


def test_strings_take_the_mainnets_order(warnings):
    splits, names = align(mainnet("good", "bad"), train=["bad", "good", "bad"], test=["good"])
    assert names == ["good", "bad"]
    assert splits == {"train": [1, 0, 1], "test": [0]}
    assert not warnings


@pytest.mark.parametrize("names", [None, ["negative", "positive"]])
def test_upper_and_lower_case_are_the_same_class(names, warnings):
    train = ["negative", "positive"] if names is None else [0, 1]
    splits, found = align(mainnet("POSITIVE", "NEGATIVE"), names, train=train, test=train[:1])
    assert found == ["POSITIVE", "NEGATIVE"]
    assert splits == {"train": [1, 0], "test": [1]}
    assert not warnings


def test_classes_that_differ_in_case_only_are_kept_apart(warnings):
    splits, names = align(mainnet("a", "A"), train=["A", "a"])
    assert (splits["train"], names) == ([0, 1], ["a", "A"])
    assert warnings


@pytest.mark.parametrize("names", [None, ["mixed", "good"]])
def test_a_mainnet_may_know_more_classes(names, warnings):
    train = ["mixed", "good"] if names is None else [0, 1]
    splits, found = align(mainnet("good", "bad", "mixed"), names, train=train)
    assert found == ["good", "bad", "mixed"]
    assert splits == {"train": [2, 0]}
    assert not warnings


def test_a_class_that_only_the_mainnet_and_test_have():
    splits, _ = align(mainnet("good", "bad", "mixed"), train=["bad", "good"], test=["mixed"])
    assert splits["test"] == [2]


@pytest.mark.parametrize("config", [mainnet("LABEL_0", "LABEL_1"), mainnet("one", "two", "three")])
def test_an_unknown_order_is_that_of_the_data(config, warnings):
    splits, names = align(config, train=["no", "yes", "yes"])
    assert (splits["train"], names) == ([0, 1, 1], ["no", "yes"])
    splits, names = align(config, ["yes", "no"], train=[0, 1])
    assert (splits["train"], names) == ([0, 1], ["yes", "no"])
    assert not warnings


def test_numbers(warnings):
    splits, names = align(mainnet("LABEL_0", "LABEL_1"), train=[1, 0, 2], test=[2])
    assert names == ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert splits == {"train": [1, 0, 2], "test": [2]}
    assert not warnings


@pytest.mark.parametrize(("names", "shown"), [(None, "['LABEL_0', 'LABEL_1']"), (["no", "yes"], "['no', 'yes']")])
def test_other_names_are_taken_in_order_with_a_warning(names, shown, warnings):
    splits, found = align(mainnet("bad", "good"), names, train=[0, 1, 1])
    assert (splits["train"], found) == ([0, 1, 1], ["bad", "good"])
    assert warnings == [f"Classes {shown} of the data are taken for the MainNet's ['bad', 'good'], in this order."]


def test_a_mainnet_with_the_same_name_twice():
    # ImageNet has two cranes.
    splits, names = align(mainnet("crane", "crane"), train=[1, 0])
    assert (splits["train"], names) == ([1, 0], ["crane", "crane"])


def test_columns_with_the_right_classes_are_not_written_again(monkeypatch):
    monkeypatch.setattr(datasets.Dataset, "cast_column", None)
    made = {"train": rows([0, 1]).cast(datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(2)))}
    splits, _ = align_labels(made, "label", mainnet("LABEL_0", "LABEL_1"))
    assert splits["train"] is made["train"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (["a", "a"], r"`label_column` must hold at least two classes, got \['a'\]"),
        ([1, 2, 3], r"`label_column` with numbers must hold 0, 1, 2 …, got \[1, 2, 3\]"),
        ([0, 1, 3], r"got \[0, 1, 3\]"),
        (["a", None, "b"], "`label_column` must hold a class in every row of train, got None"),
    ],
)
def test_labels_that_are_no_classes_are_refused(train, message):
    with pytest.raises(ValueError, match=message):
        align(mainnet("LABEL_0", "LABEL_1"), train=train)


@pytest.mark.parametrize(
    ("names", "train", "test", "message"),
    [
        (None, ["a", "b"], ["a", "c"], r"\['a', 'b'\], got \{'c'\}"),
        (None, [0, 1], [2], r"\['LABEL_0', 'LABEL_1'\], got \{2\}"),
        (["a", "b"], [0, 1], [-1], r"\['a', 'b'\], got \{-1\}"),
        (None, ["a", "b"], ["a", None], r"\['a', 'b'\], got \{None\}"),
    ],
)
@pytest.mark.parametrize("config", [mainnet("LABEL_0", "LABEL_1"), mainnet("b", "a")])
def test_a_class_that_train_has_not_is_refused(names, train, test, message, config):
    with pytest.raises(ValueError, match=f"`label_column` of test must hold classes that train has, {message}"):
        align(config, names, train=train, test=test)


@pytest.mark.parametrize(
    ("config", "names", "test", "expected"),
    [
        (mainnet("POSITIVE", "NEGATIVE"), None, ["negative", "negative"], [1, 1]),
        (mainnet("POSITIVE", "NEGATIVE"), ["negative"], [0, 0], [1, 1]),
        (mainnet("LABEL_0", "LABEL_1"), None, [1], [1]),
        (mainnet("LABEL_0", "LABEL_1"), ["no", "yes"], [1], [1]),
        (mainnet("crane", "crane"), None, [1], [1]),
    ],
)
def test_without_train_the_mainnet_names_the_classes(config, names, test, expected):
    splits, found = align(config, names, test=test)
    assert splits == {"test": expected}
    assert len(found) == 2


def test_without_train_rows_are_numbered_as_with_it():
    config = mainnet("bad", "good")
    assert (
        align(config, ["no", "yes"], train=[0, 1], test=[1])[0]["test"]
        == align(config, ["no", "yes"], test=[1])[0]["test"]
    )


@pytest.mark.parametrize(
    ("names", "test", "message"),
    [
        (None, ["good", "ugly"], r"of test must hold classes that the MainNet has, .* got \{'ugly'\}"),
        (None, [0, 2], r"of test must hold classes that the MainNet has, .* got \{2\}"),
        (["ugly"], [0], r"without train must hold classes that the MainNet has, \['bad', 'good'\], got \['ugly'\]"),
    ],
)
def test_without_train_a_class_that_the_mainnet_has_not_is_refused(names, test, message):
    with pytest.raises(ValueError, match=message):
        align(mainnet("bad", "good"), names, test=test)


@pytest.mark.parametrize("config", [mainnet("LABEL_0", "LABEL_1"), mainnet("good", "bad")])
@pytest.mark.parametrize("other", [rows([0, 1, 1], ["bad", "good"]), rows(["bad", "good", "GOOD"])])
def test_splits_that_number_classes_in_different_ways(config, other):
    splits, names = align_labels({"train": rows([0, 1], ["good", "bad"]), "test": other}, "label", config)
    assert [names[0], names[1]] == (["good", "bad"])
    assert splits["test"]["label"][:] == [1, 0, 0]
    assert splits["train"].features["label"] == splits["test"].features["label"]


def test_names_in_train_and_indices_with_names_in_test():
    made = {"train": rows(["a", "b"]), "test": rows([0, 0, 1], ["b", "a"])}
    splits, _ = align_labels(made, "label", mainnet("LABEL_0", "LABEL_1"))
    assert splits["test"]["label"][:] == [1, 1, 0]


def test_a_name_that_train_does_not_number_is_refused():
    made = {"train": rows([0, 1], ["a", "b"]), "test": rows([0], ["c"])}
    with pytest.raises(ValueError, match=r"of test must hold classes out of \['a', 'b'\], got \{'c'\}"):
        align_labels(made, "label", mainnet("LABEL_0", "LABEL_1"))


def test_without_datasets_the_pip_line_is_named(monkeypatch):
    train = {"train": rows([0, 1])}
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "hf_sidenet\[train\]"'):
        align_labels(train, "label", mainnet("a", "b"))
