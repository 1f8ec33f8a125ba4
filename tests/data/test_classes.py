# SPDX-License-Identifier: Apache-2.0
"""The rule itself: names and numbers in, indices out, or a refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_sidenet.data.classes import (
    CLASS_LABEL,
    GIVEN,
    INDEX,
    NAME,
    UnknownClassError,
    match_classes,
    names_nothing,
    spelled,
)


def unnamed(count):
    return [f"LABEL_{index}" for index in range(count)]


def found(values, own, **more):
    return match_classes(values, own, **more).indices


@given(st.integers(2, 40), st.data())
def test_digits_are_indices_whatever_is_missing(count, data):
    """20 classes as "0" … "19", of which some are not in the files: none moves."""
    present = data.draw(st.lists(st.integers(0, count - 1), min_size=1, unique=True))
    for form in ("{}", "LABEL_{}", "label {}", "{}.0"):
        values = [form.format(index) for index in present]
        assert found(values, unnamed(count)) == dict(zip(values, present, strict=True))
        assert found(values, [f"class_{i}" for i in range(count)]) == dict(zip(values, present, strict=True))


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=2, max_size=12, unique=True), st.data())
def test_names_find_themselves_in_any_order(names, data):
    values = data.draw(st.lists(st.sampled_from(names), min_size=1, unique=True))
    assert found(values, names) == {value: names.index(value) for value in values}
    order = data.draw(st.permutations(names))
    assert found(values, unnamed(len(names)), labels=order) == {value: order.index(value) for value in values}


@pytest.mark.parametrize(
    ("own", "values", "expected"),
    [
        (["NEGATIVE", "POSITIVE"], ["positive", "negative"], [1, 0]),
        (["very good", "so-so"], ["Very_Good", " SO SO "], [0, 1]),
        (["class_2", "class_10"], ["class_10", "class_2"], [1, 0]),
        (["café", "thé"], ["thé", "cafe\u0301"], [1, 0]),
        (["false", "true"], ["True", "False"], [1, 0]),
        # Only the spelling that is one of them.
        (["a", "A"], ["A", "a"], [1, 0]),
        (["A", "A-", "B"], ["A-", "A"], [1, 0]),
        (["C", "C++", "C#"], ["C#", "C++"], [2, 1]),
        # Numbers that are names.
        (["1", "2", "3"], ["3", "1"], [2, 0]),
        (["-1", "1"], ["1", "-1"], [1, 0]),
        # Some have names.
        (["negative", "LABEL_1"], ["negative", "1"], [0, 1]),
        # ImageNet has two cranes.
        (["crane", "crane"], ["1", "0"], [1, 0]),
        (["bad", "good"], ["good", "0"], [1, 0]),
    ],
)
def test_names_of_the_mainnet(own, values, expected):
    classes = match_classes(values, own)
    assert [classes.indices[value] for value in values] == expected
    assert classes.names == tuple(own)
    assert classes.how in (NAME, INDEX)


@pytest.mark.parametrize(
    "values",
    [["unfavorable", "favorable"], ["true", "false"], ["yes"], ["01", "00"], ["-1", "1"], ["a", "A"]],
)
def test_names_are_never_sorted_for_a_mainnet_that_names_nothing(values):
    with pytest.raises(ValueError, match=r"`labels` must name the MainNet's 2 outputs in order.*got None"):
        match_classes(values, unnamed(2))


@pytest.mark.parametrize(
    ("values", "own", "wrong"),
    [
        (["1", "2"], unnamed(2), "2"),
        (["0", "1", "2"], ["bad", "good"], "2"),
        (["good", "ugly"], ["bad", "good"], "ugly"),
        (["no", "yes"], ["bad", "good"], "no"),
        # Numbers are names here, so 0 is no index.
        (["0", "1"], ["1", "2"], "0"),
        (["A-"], ["A", "B"], "A-"),
        (["crane"], ["crane", "crane"], "crane"),
    ],
)
def test_a_class_that_the_mainnet_has_not(values, own, wrong):
    with pytest.raises(UnknownClassError, match="labels must be classes of the MainNet") as error:
        match_classes(values, own)
    assert error.value.label == wrong


@pytest.mark.parametrize(
    ("ordered", "values", "own", "expected", "how"),
    [
        # Names win over the order.
        (["bad", "mixed", "good"], ["bad", "good"], ["good", "bad", "mixed"], [1, 0], NAME),
        # Unless there are none.
        (["unfavorable", "favorable"], ["favorable", "unfavorable"], unnamed(2), [1, 0], CLASS_LABEL),
        (["no", "yes"], ["yes"], ["bad", "good"], [1], CLASS_LABEL),
        (["1", "2"], ["1", "2"], unnamed(2), [0, 1], CLASS_LABEL),
        (["1", "2"], ["1"], unnamed(2), [0], CLASS_LABEL),
        # As `class_encode_column` sorts them.
        (["0", "1", "10", "2"], ["10", "2"], unnamed(11), [10, 2], INDEX),
        # A class that no row has.
        (["negative", "positive", "unsure"], ["negative"], ["NEGATIVE", "POSITIVE"], [0], NAME),
    ],
)
def test_an_order_that_the_data_set_gives(ordered, values, own, expected, how):
    classes = match_classes(values, own, ordered=ordered)
    assert ([classes.indices[value] for value in values], classes.how) == (expected, how)


@pytest.mark.parametrize(
    ("ordered", "own"), [(["a", "b"], unnamed(3)), (["bad", "ugly"], ["bad", "good"]), (["a", "b", "c"], unnamed(2))]
)
def test_an_order_of_other_classes_is_none(ordered, own):
    with pytest.raises(ValueError, match=r"`labels` must name|classes of the MainNet"):
        match_classes(ordered, own, ordered=ordered)


@pytest.mark.parametrize(
    ("labels", "values", "own", "expected", "names"),
    [
        (["unfavorable", "favorable"], ["favorable"], unnamed(2), [1], ("unfavorable", "favorable")),
        (["-1", "1"], ["1", "-1"], unnamed(2), [1, 0], ("-1", "1")),
        (["1", "2"], ["2", "1"], unnamed(2), [1, 0], ("1", "2")),
        (["no", "yes"], ["YES"], ["bad", "good"], [1], ("bad", "good")),
        # What the MainNet says of itself is wrong.
        (["good", "bad"], ["bad"], ["bad", "good"], [1], ("good", "bad")),
        ([0, 1], ["1"], unnamed(2), [1], ("0", "1")),
    ],
)
def test_names_that_are_given_for_the_outputs_win(labels, values, own, expected, names):
    classes = match_classes(values, own, labels=labels, ordered=["x", "y"])
    assert [classes.indices[value] for value in values] == expected
    assert (classes.names, classes.how) == (names, GIVEN)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], r"`labels` must be different names, two or more, got \['a', 'a'\]"),
        (["a", " "], "`labels` must be different names"),
        (["a"], "`labels` must be different names"),
        (["a", "b", "c"], r"`labels` must name each of the MainNet's 2 outputs, .* got 3: \['a', 'b', 'c'\]"),
        (["a", "c"], r"labels must be classes of `labels`, \['a', 'c'\], got 'b'"),
    ],
)
def test_impossible_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        match_classes(["a", "b"], unnamed(2), labels=labels)


@pytest.mark.parametrize(
    ("train", "names"),
    [
        (["yes", "no"], ("no", "yes")),
        (["1", "0", "2"], ("LABEL_0", "LABEL_1", "LABEL_2")),
        (["10", "9", "-1"], ("-1", "9", "10")),
        (["LABEL_10", "LABEL_9"], ("LABEL_9", "LABEL_10")),
        (["01", "10"], ("01", "10")),
    ],
)
def test_a_new_head_learns_the_classes_of_the_training_rows(train, names):
    classes = match_classes(train, ["tench", "goldfish", "shark", "ray"], new_head=True, learned=train)
    assert classes.names == names
    assert sorted(classes.indices.values()) == list(range(len(names)))


def test_a_new_head_refuses_numbers_that_are_no_classes():
    with pytest.raises(ValueError, match="`label_column` must contain names or indices of classes"):
        match_classes(["0.5", "1.25"], unnamed(2), new_head=True, learned=["0.5", "1.25"])
    with pytest.raises(UnknownClassError, match=r"classes of train, \['a', 'b'\], got 'c'"):
        match_classes(["a", "b", "c"], unnamed(3), new_head=True, learned=["a", "b"])


def test_labels_are_spelled_alike_whatever_their_type():
    assert [spelled(value) for value in (1, 1.0, "1", "01", True, "x ", 0.5)] == [
        "1",
        "1",
        "1",
        "01",
        "True",
        "x ",
        "0.5",
    ]
    assert [spelled(value) for value in (None, float("nan"), "", "  ")] == [None] * 4


def test_what_names_nothing():
    assert names_nothing(unnamed(3))
    assert names_nothing(["0", "1"])
    assert not names_nothing(["LABEL_1", "LABEL_0"])
    assert not names_nothing(["LABEL_0", "dog"])


def test_the_mapping_in_a_line():
    classes = match_classes(["no", "bad"], ["bad", "good"], labels=["bad", "no"])
    assert classes.text() == "bad → 0, no → 1 (good)"


@pytest.mark.parametrize("labels", ["01", b"01", {"0": 1, "1": 0}, {"0", "1"}])
def test_names_that_are_no_list(labels):
    with pytest.raises(ValueError, match="`labels` must be a list of names, got"):
        match_classes(["0", "1"], unnamed(2), labels=labels)
