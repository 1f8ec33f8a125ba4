# SPDX-License-Identifier: Apache-2.0
"""Rows in every form in which people have them."""

import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value

from hf_sidenet.data.rows import prepare_rows
from hf_sidenet.models.modalities import TEXT

from ..models import tiny


NAMES = ["NEGATIVE", "POSITIVE"]
TEXTS = ["a good film", "so bad", "very dull", "witty"]


def config(names):
    found = tiny.bert(num_labels=len(names)).config
    found.id2label = dict(enumerate(names))
    return found


def labels_of(rows, names=NAMES, **kwargs):
    return prepare_rows({"test": rows}, config(names), tiny.tokenizer(), modality=TEXT, **kwargs)["test"].labels


def inputs(labels, feature=None):
    """Model inputs, as a Trainer takes them."""
    columns = {"input_ids": [[3, 4]] * len(labels), "labels": labels}
    if feature is None:
        return Dataset.from_dict(columns)
    return Dataset.from_dict(columns, features=Features({"input_ids": Sequence(Value("int64")), "labels": feature}))


@pytest.mark.parametrize("format", [None, "numpy", "torch", "pandas", "arrow"])
def test_the_format_that_somebody_set_does_not_matter(format):
    rows = Dataset.from_dict({"text": TEXTS, "label": ["negative", "positive", "1", "0"]}).with_format(format)
    assert labels_of(rows) == [0, 1, 1, 0]


@pytest.mark.parametrize("labels", [[1, 0, -100], [1.0, 0.0, -100.0], ["1", "0", "-100"]])
def test_labels_of_model_inputs_are_indices(labels):
    assert labels_of(inputs(labels)) == [1, 0, -100]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1.0, 0.7], r"`test` must have `labels` that are class indices, .*, got 0.7 in row 2"),
        (["1", "positive"], r"indices, .*, got 'positive' in row 2"),
        ([1, None], r"indices, .*, got None in row 2"),
        ([1, 2], r"`labels` in \[0, 2\).*, got 2 in row 2"),
    ],
)
def test_labels_of_model_inputs_that_are_none(labels, message):
    with pytest.raises(ValueError, match=message):
        labels_of(inputs(labels))


def test_indices_whose_names_are_the_mainnets_in_another_order():
    for names in (["positive", "negative"], ["neutral", "negative"]):
        with pytest.raises(
            ValueError, match=r"`test` must have `labels` in the order of .* got a ClassLabel in another"
        ):
            labels_of(inputs([0, 1], ClassLabel(names=names)))
    for names in (["negative", "Positive"], ["bad", "good"]):
        assert labels_of(inputs([0, 1], ClassLabel(names=names))) == [0, 1]
    # In raw rows they are brought to it.
    raw = Dataset.from_dict({"text": TEXTS[:2], "label": [0, 1]})
    assert labels_of(raw.cast_column("label", ClassLabel(names=["positive", "negative"]))) == [1, 0]
