# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hf_sidenet.evaluation import Interval, bootstrap_intervals
from hf_sidenet.evaluation.bootstrap import (
    CHUNK_ELEMENTS,
    calibrated_errors,
    resample_weights,
    weighted_auroc,
    weighted_calibration_error,
    weighted_mean_among,
    weighted_means,
)
from hf_sidenet.measurement import PAPER_BINS, STANDARD_BINS, expected_calibration_error


# Few distinct confidences, to get ties and edges of bins.
ROWS = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.6, 0.85, 1.0]), st.booleans()), min_size=1, max_size=30)
WEIGHTS = st.lists(st.integers(0, 3), min_size=30, max_size=30)


def tensors(rows):
    return torch.tensor([c for c, _ in rows]), torch.tensor([r for _, r in rows])


def weighted(statistic, weights):
    return statistic(torch.tensor([weights], dtype=torch.float64))[0, 0].item()


def repeated(rows, weights):
    return tensors([row for row, times in zip(rows, weights, strict=False) for _ in range(times)])


def test_a_resample_draws_as_many_rows_as_there_are():
    (weights,) = resample_weights(7, 50, seed=3)
    assert weights.shape == (50, 7)
    assert weights.sum(1).tolist() == [7] * 50
    assert (weights == weights.round()).all()
    # A row is omitted with probability (6/7)^7 = 0.34, and drawn twice or more with 0.26.
    assert (weights == 0).any()
    assert (weights > 1).any()


def test_every_row_is_drawn_equally_often():
    drawn = sum(weights.sum(0) for weights in resample_weights(5, 20_000, seed=0)) / 20_000
    assert drawn.tolist() == pytest.approx([1] * 5, abs=0.04)  # 5 standard errors


def test_memory_is_bounded(monkeypatch):
    chunks = [weights.shape for weights in resample_weights(CHUNK_ELEMENTS // 2, 5, seed=0)]
    assert chunks == [(2, CHUNK_ELEMENTS // 2)] * 2 + [(1, CHUNK_ELEMENTS // 2)]
    monkeypatch.setattr("hf_sidenet.evaluation.bootstrap.CHUNK_ELEMENTS", 3)
    assert [len(weights) for weights in resample_weights(10, 3, seed=0)] == [1, 1, 1]


def test_the_interval_is_that_of_a_loop_over_resamples():
    values = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.25])
    (made,) = bootstrap_intervals({"mean": weighted_means(values[:, None])}, 8, num_resamples=400, level=0.9, seed=5)[
        "mean"
    ]
    # The same draws, as row numbers instead of weights.
    drawn = torch.randint(8, (400, 8), generator=torch.Generator().manual_seed(5))
    means = [np.mean([values[i].item() for i in row]) for row in drawn.tolist()]
    low, high = np.quantile(means, [0.05, 0.95])
    assert made == Interval(0.65625, pytest.approx(low), pytest.approx(high))


def test_the_interval_of_a_mean_is_as_wide_as_the_normal_one():
    right = torch.arange(2000) < 1600
    (made,) = bootstrap_intervals({"mean": weighted_means(right[:, None])}, 2000, num_resamples=4000)["mean"]
    half = 1.96 * math.sqrt(0.8 * 0.2 / 2000)
    assert made.value == pytest.approx(0.8)
    assert [made.low, made.high] == pytest.approx([0.8 - half, 0.8 + half], abs=0.1 * half)


def test_statistics_taken_together_are_paired():
    right = torch.rand(200) < 0.7
    both = torch.stack([right, ~right], 1)
    found = bootstrap_intervals({"both": weighted_means(both), "again": weighted_means(both[:, :1])}, 200)
    first, second = found["both"]
    assert found["again"] == [first]
    assert (second.low, second.high) == (pytest.approx(1 - first.high), pytest.approx(1 - first.low))
    constant = bootstrap_intervals({"sum": lambda weights: weighted_means(both)(weights).sum(1, keepdim=True)}, 200)[
        "sum"
    ][0]
    assert (constant.low, constant.high) == (pytest.approx(1), pytest.approx(1))


def test_the_seed_decides():
    statistic = {"mean": weighted_means(torch.rand(50, 1))}
    assert bootstrap_intervals(statistic, 50, seed=1) == bootstrap_intervals(statistic, 50, seed=1)
    assert bootstrap_intervals(statistic, 50, seed=1) != bootstrap_intervals(statistic, 50, seed=2)


def test_resamples_without_a_value_do_not_count():
    # One of two rows is chosen: a quarter of the resamples lacks it.
    chosen = torch.tensor([True, False])
    mean = weighted_mean_among(torch.tensor([0.5, 9.0]), chosen)
    assert math.isnan(weighted(mean, [0, 2]))
    assert bootstrap_intervals({"mean": mean}, 2)["mean"] == [Interval(0.5, 0.5, 0.5)]
    (nothing,) = bootstrap_intervals({"mean": weighted_mean_among(chosen, torch.zeros(2, dtype=torch.bool))}, 2)[
        "mean"
    ]
    assert all(math.isnan(x) for x in (nothing.value, nothing.low, nothing.high))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"num_rows": 0}, "num_rows"),
        ({"num_resamples": 0}, "num_resamples"),
        ({"num_resamples": 2.5}, "num_resamples"),
        ({"num_resamples": True}, "num_resamples"),
        ({"level": 0.0}, "level"),
        ({"level": 1.0}, "level"),
        ({"level": math.nan}, "level"),
    ],
)
def test_impossible_arguments_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got {arguments[name]!r}"):
        bootstrap_intervals({}, **{"num_rows": 3, **arguments})


def test_auroc_by_hand():
    # Wrong at 0.5: two of three right rows are above, one ties. Wrong at 0.9: one ties, two are below.
    confidences = torch.tensor([0.5, 0.9, 0.5, 0.9, 0.7])
    correct = torch.tensor([False, False, True, True, True])
    assert weighted(weighted_auroc(confidences, correct), [1] * 5) == pytest.approx((2.5 + 0.5) / 6)
    # The second wrong row twice, the right one at 0.7 three times: 5 pairs for 0.5, 2 × 5 for 0.9.
    weights = [1, 2, 1, 1, 3]
    assert weighted(weighted_auroc(confidences, correct), weights) == pytest.approx((4.5 + 2 * 0.5) / 15)


@given(ROWS, WEIGHTS)
def test_auroc_of_weights_equals_scikit_learn_on_repeated_rows(rows, weights):
    value = weighted(weighted_auroc(*tensors(rows)), weights[: len(rows)])
    confidences, correct = repeated(rows, weights)
    if len(set(correct.tolist())) < 2:
        assert math.isnan(value)
    else:
        assert value == pytest.approx(roc_auc_score(correct, confidences))


@given(ROWS, WEIGHTS, st.sampled_from([PAPER_BINS, STANDARD_BINS, {"num_bins": 3, "low": 0.3, "high": 1.0}]))
def test_ece_of_weights_equals_the_ece_of_repeated_rows(rows, weights, bins):
    value = weighted(weighted_calibration_error(*tensors(rows), **bins), weights[: len(rows)])
    expected = expected_calibration_error(*repeated(rows, weights), **bins)
    assert value == pytest.approx(expected, abs=1e-7, nan_ok=True)


def test_what_a_calibrated_model_shows_by_hand():
    # Two rows in one bin, each right with probability 1/2: error 1/2, 0 or 1/2. One of confidence 1 adds nothing.
    confidences = torch.tensor([0.5, 0.5, 1.0, 0.1])
    bins = {"num_bins": 2, "low": 0.2, "high": 1.0}
    errors = calibrated_errors(confidences, [bins, {"num_bins": 1, "low": 0.6, "high": 1.0}], 20_000, seed=0)
    assert errors.shape == (20_000, 2)
    assert errors[:, 0].unique().tolist() == pytest.approx([0, 1 / 3])
    assert errors[:, 0].mean().item() == pytest.approx(1 / 6, abs=0.006)
    assert (errors[:, 1] == 0).all()
    nothing = calibrated_errors(torch.tensor([0.1]), [PAPER_BINS], 3, seed=0)
    assert nothing.isnan().all()


def test_the_band_holds_the_error_of_a_calibrated_model_and_not_of_another():
    confidences = 0.5 + torch.rand(2000) / 2
    low, high = calibrated_errors(confidences, [STANDARD_BINS], 500, seed=0)[:, 0].quantile(
        torch.tensor([0.025, 0.975], dtype=torch.float64)
    )
    inside = 0
    for _ in range(100):
        correct = torch.rand(2000) < confidences
        inside += int(low <= expected_calibration_error(confidences, correct, **STANDARD_BINS) <= high)
    assert inside >= 87  # 95 expected, standard deviation 2.2
    assert expected_calibration_error(confidences, torch.rand(2000) < confidences - 0.1, **STANDARD_BINS) > high
