# SPDX-License-Identifier: Apache-2.0
"""A mapping held against what a MainNet answers."""

import logging

import pytest
import torch

from hf_sidenet.calibration import label_checks
from hf_sidenet.calibration.label_checks import Answered, ClassOrderError, check_class_order
from hf_sidenet.data.classes import indexed_classes, match_classes


@pytest.fixture
def warnings():
    found = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())
    label_checks.logger.addHandler(handler)
    yield found
    label_checks.logger.removeHandler(handler)


def unnamed(count):
    return indexed_classes([f"LABEL_{index}" for index in range(count)])


def answered(count, num_rows, accuracy, order=None, *, weights=None, seed=0, name="design"):
    """A classifier that is right on a share of the rows, wrong at random on the others; labels in another order."""
    chance = torch.Generator().manual_seed(seed)
    weights = torch.ones(count) if weights is None else torch.tensor(weights)
    true = torch.multinomial(weights, num_rows, replacement=True, generator=chance)
    other = torch.randint(0, count, (num_rows,), generator=chance)
    right = torch.rand(num_rows, generator=chance) < accuracy
    labels = true if order is None else torch.tensor(order)[true]
    return Answered(name, torch.where(right, true, other), labels)


@pytest.mark.parametrize(
    ("count", "num_rows", "accuracy", "order"),
    [
        (2, 12, 1.0, [1, 0]),
        (2, 100, 0.8, [1, 0]),
        (3, 60, 0.7, [1, 2, 0]),
        (5, 100, 0.5, [1, 2, 3, 4, 0]),
        (20, 200, 0.9, sorted(range(20), key=str)),
        (77, 800, 0.85, [(index + 1) % 77 for index in range(77)]),
        # Two of many.
        (20, 1000, 0.9, [1, 0, *range(2, 20)]),
    ],
)
def test_another_order_fits_better(count, num_rows, accuracy, order):
    rows = answered(count, num_rows, accuracy, order)
    with pytest.raises(ClassOrderError, match=r"do not match the MainNet's answers on .* design rows") as error:
        check_class_order([rows], unnamed(count))
    # The option that mends it: what each output is called.
    outputs = str([str(label) for label in torch.tensor(order).tolist()])
    assert f"labels={outputs}" in str(error.value)
    check_class_order([rows], unnamed(count), trust_labels=True)
    check_class_order([answered(count, num_rows, accuracy)], unnamed(count))


def test_both_orders_are_printed():
    classes = match_classes(["fav", "unfav"], ["LABEL_0", "LABEL_1"], labels=["fav", "unfav"])
    with pytest.raises(ClassOrderError) as error:
        check_class_order([answered(2, 200, 0.9, [1, 0], name="validation")], classes)
    text = str(error.value)
    assert (
        "are mapped in the order that was given: fav → 0, unfav → 1; with this mapping the MainNet is right on" in text
    )
    assert "With fav → 1, unfav → 0 it would be right on" in text
    assert "labels=['unfav', 'fav']" in text


@pytest.mark.parametrize("seed", range(30))
def test_a_right_order_passes_whatever_the_mainnet_is_worth(seed):
    """Few rows, many classes, classes that are missing."""
    for count, num_rows, accuracy in ((2, 8, 0.6), (3, 30, 0.4), (20, 60, 0.3), (77, 200, 0.2)):
        check_class_order([answered(count, num_rows, accuracy, seed=seed)], unnamed(count))


def test_wrong_orders_are_refused_and_right_ones_pass_on_few_rows_of_few_classes():
    labels = torch.tensor([0, 1] * 5)
    check_class_order([Answered("test", labels, labels)], unnamed(2))
    with pytest.raises(ClassOrderError):
        check_class_order([Answered("test", 1 - labels, labels)], unnamed(2))
    # Four rows may come out so by chance.
    check_class_order([Answered("test", 1 - labels[:4], labels[:4])], unnamed(2))
    only = torch.zeros(40, dtype=torch.long)
    check_class_order([Answered("test", only, only)], unnamed(3))
    with pytest.raises(ClassOrderError):
        check_class_order([Answered("test", only + 1, only)], unnamed(3))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.95, 0.05], [0.2, 0.3, 0.5]])
def test_a_mainnet_that_knows_no_more_than_the_most_frequent_class(weights, warnings):
    count = len(weights)
    chance = answered(count, 1000, 0.0, weights=weights)
    constant = Answered("design", torch.full((1000,), chance.labels.mode().values.item()), chance.labels)
    for rows in (chance, constant):
        with pytest.raises(
            ClassOrderError,
            match=r"accuracy on the design rows is not (clearly )?above the most frequent .*`trust_labels`",
        ):
            check_class_order([rows], unnamed(count), certifies=True)
        # Where nothing is certified, it is said.
        check_class_order([rows], unnamed(count))
        assert "above the most frequent" in warnings.pop()
    # Less often right than that, but of use.
    check_class_order([answered(count, 1000, 0.85, weights=weights)], unnamed(count), certifies=True)
    assert [" It does distinguish that class" in warning for warning in warnings] == [True] * (weights[0] == 0.95)


@pytest.mark.parametrize(
    ("count", "num_rows", "accuracy", "weights"),
    [
        (2, 50, 0.3, None),
        (2, 100, 0.2, None),
        (2, 200, 0.2, None),
        (3, 60, 0.25, None),
        (3, 100, 0.3, [0.4, 0.3, 0.3]),
    ],
)
def test_a_weak_mainnet_is_not_refused_for_few_rows(count, num_rows, accuracy, weights, warnings):
    """What is right more often than the most frequent class is, if not clearly so: a tenth of them at the most."""
    refused = 0
    for seed in range(40):
        rows = answered(count, num_rows, accuracy, weights=weights, seed=seed)
        right = (rows.answers == rows.labels).double().mean().item()
        frequent = rows.labels.bincount().max().item() / num_rows
        if right < frequent + 0.05:
            continue
        try:
            check_class_order([rows], unnamed(count), certifies=True)
        except ClassOrderError:
            refused += 1
    assert refused <= 4
    assert not any("is not above" in warning for warning in warnings)


def test_a_weak_mainnet_whose_labels_are_in_a_wrong_order_is_refused_on_few_rows():
    for seed in range(20):
        with pytest.raises(ClassOrderError):
            check_class_order([answered(2, 100, 0.5, [1, 0], seed=seed)], unnamed(2), certifies=True)


def test_every_split_has_its_own_order_and_all_of_them_one_accuracy():
    train, few = answered(2, 400, 0.9, name="train"), answered(2, 60, 0.55, weights=[0.9, 0.1], seed=1)
    check_class_order([train, few], unnamed(2), certifies=True)
    with pytest.raises(ClassOrderError, match="on 60 test rows"):
        check_class_order([train, answered(2, 60, 0.9, [1, 0], name="test")], unnamed(2))


def test_rows_without_labels_or_numbers_do_not_count():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [float("nan"), 0.0]])
    rows = Answered.from_logits("test", logits, torch.tensor([1, -100, 0]))
    assert (rows.answers.tolist(), rows.labels.tolist()) == ([1], [1])
    check_class_order([Answered.from_logits("test", logits, torch.full((3,), -100))], unnamed(2))
