# SPDX-License-Identifier: Apache-2.0
import logging

import pytest

from hf_sidenet.data import Columns, columns, find_columns


datasets = pytest.importorskip("datasets")
STRING, INT, FLOAT = (datasets.Value(name) for name in ("string", "int64", "float32"))
IMAGE, CLASSES = datasets.Image(), datasets.ClassLabel(names=["a", "b"])


def find(features, **given):
    return find_columns(datasets.Features(features), **given)


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"idx": INT, "sentence": STRING, "label": CLASSES}, Columns(("sentence",), "label", "text")),
        ({"Text": STRING, "note": STRING, "Label": STRING}, Columns(("Text",), "Label", "text")),
        ({"premise": STRING, "hypothesis": STRING, "label": INT}, Columns(("premise", "hypothesis"), "label", "text")),
        ({"question": STRING, "sentence": STRING, "label": INT}, Columns(("question", "sentence"), "label", "text")),
        ({"text": STRING, "text_pair": STRING, "label": INT}, Columns(("text", "text_pair"), "label", "text")),
        ({"question": STRING, "answer": STRING, "label": INT}, Columns(("question", "answer"), "label", "text")),
        ({"Query": STRING, "passage": STRING, "label": INT}, Columns(("Query", "passage"), "label", "text")),
        (
            {"sentence1": STRING, "sentence2": STRING, "label": INT},
            Columns(("sentence1", "sentence2"), "label", "text"),
        ),
        ({"text_a": STRING, "text_b": STRING, "label": INT}, Columns(("text_a", "text_b"), "label", "text")),
        (
            {"Question_1": STRING, "Question_2": STRING, "label": INT},
            Columns(("Question_1", "Question_2"), "label", "text"),
        ),
        # A column with the class is no half of a pair.
        ({"text": STRING, "text_pair": CLASSES}, Columns(("text",), "text_pair", "text")),
        ({"body": STRING, "target": STRING}, Columns(("body",), "target", "text")),
        ({"text": STRING, "label": INT, "category": STRING}, Columns(("text",), "label", "text")),
        ({"text": STRING, "coarse": CLASSES, "size": INT}, Columns(("text",), "coarse", "text")),
        ({"img": IMAGE, "label": CLASSES}, Columns(("img",), "label", "image")),
        ({"photo": IMAGE, "text": STRING, "label": CLASSES}, Columns(("photo",), "label", "image")),
        ({"image": STRING, "label": STRING}, Columns(("image",), "label", "image")),
        ({"text": datasets.Value("large_string"), "label": INT}, Columns(("text",), "label", "text")),
        ({"text": STRING, "label": FLOAT}, Columns(("text",), "label", "text")),
        ({"text": STRING, "label": datasets.Value("bool")}, Columns(("text",), "label", "text")),
    ],
)
def test_columns_with_usual_names_or_the_only_fitting_type(features, expected):
    assert find(features) == expected


WORDS = ["a film", "a dull film"]


@pytest.mark.parametrize(
    ("sample", "given", "inputs", "unused"),
    [
        ({"text": WORDS, "summary": WORDS, "id": ["x1", "x2"]}, {}, ("text",), ("summary",)),
        ({"body": WORDS, "id": ["1", "2"], "score": ["0.5", "1"]}, {}, ("body",), ()),
        ({"text": ["5", "10"], "date": ["2026-01-02", ""]}, {}, ("text",), ()),
        ({"text": WORDS, "text_pair": WORDS}, {"text_columns": ["text"]}, ("text",), ("text_pair",)),
        ({"text": WORDS, "text_pair": WORDS}, {}, ("text", "text_pair"), ()),
    ],
)
def test_a_column_that_looks_like_texts_and_is_not_read_is_named(sample, given, inputs, unused):
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    columns.logger.addHandler(handler)
    try:
        chosen = find({**dict.fromkeys(sample, STRING), "label": INT}, **given, sample=sample)
    finally:
        columns.logger.removeHandler(handler)
    assert (chosen.inputs, chosen.unused) == (inputs, unused)
    assert [unused[0] in message for message in found] == [True] * len(unused)


def test_given_names_win():
    features = {"text": STRING, "label": INT, "other": STRING, "kind": CLASSES, "image": IMAGE}
    assert find(features, text_columns=["other"], label_column="kind") == Columns(("other",), "kind", "text")
    assert find(features, text_columns=["other", "text"]) == Columns(("other", "text"), "label", "text")
    assert find(features, image_column="image") == Columns(("image",), "label", "image")


@pytest.mark.parametrize(
    ("features", "given", "message"),
    [
        ({"a": STRING, "b": STRING, "label": INT}, {}, r"`text_columns` must be given if several .*\['a', 'b', 'l"),
        ({"text": STRING, "review": STRING, "label": INT}, {}, "`text_columns` must be given if several"),
        (
            {"a": INT, "label": INT},
            {},
            r"`text_columns` must be given if no column is one of .* got \['a', 'label'\]",
        ),
        ({"text": STRING, "stars": INT}, {}, r"`label_column` must be given .* got \['text', 'stars'\]"),
        ({"text": STRING, "class": INT, "target": INT}, {}, "`label_column` must be given if several"),
        ({"a": IMAGE, "b": IMAGE, "label": INT}, {}, "`image_column` must be given if several"),
        ({"text": STRING, "label": datasets.List(INT)}, {}, "`label_column` must contain names or indices"),
        ({"text": INT, "label": INT}, {}, "`text_columns` must contain texts, got 'text' with"),
        ({"text": STRING, "label": INT}, {"text_columns": ["txt"]}, r"`text_columns` must be among .* got \['txt'\]"),
        ({"text": STRING, "label": INT}, {"label_column": "lab"}, r"`label_column` must be among .* got \['lab'\]"),
        ({"image": IMAGE, "label": INT}, {"image_column": "pic"}, r"`image_column` must be among .* got \['pic'\]"),
        (
            {"text": STRING, "label": INT},
            {"image_column": "label"},
            "`image_column` must contain images or their paths",
        ),
        ({"text": STRING, "label": INT}, {"text_columns": []}, "`text_columns` must be one column, or two"),
        (
            {"text": STRING, "label": INT},
            {"text_columns": ["text"], "label_column": "text"},
            "must not also be an input",
        ),
        (
            {"text": STRING, "label": INT},
            {"text_columns": ["text"], "image_column": "i"},
            "pass only one of `text_columns`",
        ),
    ],
)
def test_none_or_several_or_the_wrong_one(features, given, message):
    with pytest.raises(ValueError, match=message):
        find(features, **given)
