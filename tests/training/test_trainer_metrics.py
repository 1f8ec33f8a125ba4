# SPDX-License-Identifier: Apache-2.0
import math
import pickle

import numpy as np
import pytest
import torch
from transformers import EvalPrediction, Trainer, TrainingArguments

from hf_sidenet.measurement.metrics import accuracy, expected_calibration_error
from hf_sidenet.models.tasks import SINGLE_LABEL
from hf_sidenet.training import compute_exit_metrics, routed_exit_metrics
from tests.measurement.models import texts, tiny_bert


NAN = float("nan")
# Confidences of exit 0: 0.95, 0.82, 0.73, 0.5.
EXIT_LOGITS = np.array(
    [
        [[3.0, 0.0], [0.0, 1.0]],
        [[1.5, 0.0], [0.0, 2.0]],
        [[0.0, 1.0], [3.0, 0.0]],
        [[0.0, 0.0], [0.0, 4.0]],
    ],
    dtype=np.float32,
)
LABELS = np.array([0, 1, 1, 1])


def evaluated(exit_logits=EXIT_LOGITS, labels=LABELS):
    logits, index = exit_logits[:, -1], np.full(len(exit_logits), exit_logits.shape[1] - 1)
    return EvalPrediction(predictions=(logits, index, exit_logits), label_ids=labels)


def test_by_hand_with_exits_off():
    metrics = compute_exit_metrics()(evaluated())
    assert metrics["accuracy"] == metrics["exit_1_accuracy"] == 0.5
    assert metrics["exit_0_accuracy"] == 0.5  # a tie answers class 0
    assert (metrics["exit_0_share"], metrics["exit_1_share"]) == (0, 1)
    assert math.isnan(metrics["exit_0_routed_accuracy"])
    assert metrics["exit_1_routed_accuracy"] == 0.5
    assert all(isinstance(value, float) for value in metrics.values())
    assert set(metrics) == {"accuracy"} | {
        f"exit_{i}_{name}" for i in range(2) for name in ("accuracy", "ece", "share", "routed_accuracy")
    }


def test_by_hand_with_a_threshold():
    metrics = compute_exit_metrics(thresholds=0.8)(evaluated())
    assert metrics["exit_0_share"] == metrics["exit_1_share"] == 0.5
    assert metrics["exit_0_routed_accuracy"] == 0.5
    assert metrics["exit_1_routed_accuracy"] == 0.5
    # At 0.9 row 1 is answered rightly by the MainNet.
    assert compute_exit_metrics(thresholds=[0.9])(evaluated())["accuracy"] == 0.75


def test_temperatures_enter_routing_and_ece():
    exit_logits, labels = torch.from_numpy(EXIT_LOGITS), torch.from_numpy(LABELS)
    metrics = compute_exit_metrics(thresholds=0.8, temperatures=[2.0, 0.5])(evaluated())
    assert metrics["exit_0_share"] == 0.25
    for i, temperature in enumerate([2.0, 0.5]):
        correct = exit_logits[:, i].argmax(-1) == labels
        expected = expected_calibration_error(SINGLE_LABEL.confidence(exit_logits[:, i], temperature), correct)
        assert metrics[f"exit_{i}_ece"] == pytest.approx(expected)


def test_the_three_dimensional_array_alone():
    alone = EvalPrediction(predictions=EXIT_LOGITS, label_ids=LABELS)
    assert str(compute_exit_metrics(thresholds=0.8)(alone)) == str(compute_exit_metrics(thresholds=0.8)(evaluated()))


def test_missing_exit_logits_are_named():
    plain = EvalPrediction(predictions=EXIT_LOGITS[:, -1], label_ids=LABELS)
    with pytest.raises(ValueError, match=r"`exit_logits` .* got shapes \[\(4, 2\)\]"):
        compute_exit_metrics()(plain)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2, 3]])
def test_rows_that_left_are_refused(rows):
    exit_logits = EXIT_LOGITS.copy()
    exit_logits[rows, -1] = NAN
    with pytest.raises(ValueError, match=f"{len(rows)} of 4 rows .* exits off"):
        compute_exit_metrics()(evaluated(exit_logits))


def test_a_column_that_nobody_reached_is_refused():
    exit_logits = EXIT_LOGITS.copy()
    exit_logits[:, 0] = NAN
    with pytest.raises(ValueError, match="exits off"):
        compute_exit_metrics()(evaluated(exit_logits))


def test_a_broken_exit_of_one_row_counts_as_wrong():
    exit_logits = EXIT_LOGITS.copy()
    exit_logits[0, 0] = NAN
    metrics = compute_exit_metrics(thresholds=0.8)(evaluated(exit_logits))
    assert metrics["exit_0_accuracy"] == 0.25
    assert metrics["exit_0_share"] == 0.25
    assert 0 <= metrics["exit_0_ece"] <= 1


@pytest.mark.parametrize("labels", [None, np.zeros((4, 2)), np.zeros(3)])
def test_labels_that_do_not_fit_are_refused(labels):
    with pytest.raises(ValueError, match="`label_ids` must"):
        compute_exit_metrics()(evaluated(labels=labels))


def test_the_wrong_number_of_thresholds_or_temperatures():
    with pytest.raises(ValueError, match="`thresholds`"):
        compute_exit_metrics(thresholds=[0.5, 0.5])(evaluated())
    with pytest.raises(ValueError, match="`temperatures`"):
        compute_exit_metrics(thresholds=0.5, temperatures=[1.0])(evaluated())


def test_can_be_pickled():
    pickle.loads(pickle.dumps(compute_exit_metrics(thresholds=0.8)))


def trainer(model, tmp_path, thresholds=None):
    batch = texts(12)
    rows = [{name: value[i] for name, value in batch.items()} for i in range(12)]
    arguments = TrainingArguments(
        tmp_path, per_device_eval_batch_size=5, use_cpu=True, report_to=[], disable_tqdm=True
    )
    return Trainer(
        model, arguments, eval_dataset=rows, compute_metrics=compute_exit_metrics(model, thresholds=thresholds)
    )


def test_with_the_stock_trainer(tmp_path):
    model, batch = tiny_bert(), texts(12)
    with torch.no_grad():
        routed = model(**batch, thresholds=0.7)
    metrics = trainer(model, tmp_path, thresholds=0.7).evaluate()
    assert metrics["eval_accuracy"] == pytest.approx(accuracy(routed.logits, batch["labels"]))
    shares = [metrics[f"eval_exit_{i}_share"] for i in range(3)]
    assert shares == pytest.approx((torch.bincount(routed.exit_index, minlength=3) / 12).tolist())
    assert 0 < shares[0] < 1


def test_rows_that_left_by_hand():
    exit_logits = EXIT_LOGITS.copy()
    exit_logits[:2, 1] = NAN  # at 0.8
    logits, index = np.stack([*EXIT_LOGITS[:2, 0], *EXIT_LOGITS[2:, 1]]), np.array([0, 0, 1, 1])
    labels = np.array([0, 1, 1, -100])
    metrics = routed_exit_metrics()(EvalPrediction(predictions=(logits, index, exit_logits), label_ids=labels))
    assert metrics["accuracy"] == pytest.approx(1 / 3)
    assert metrics["exit_0_share"] == pytest.approx(2 / 3)
    assert (metrics["exit_0_routed_accuracy"], metrics["exit_1_routed_accuracy"]) == (0.5, 0)
    assert len(metrics) == 5
    # The same numbers as by replaying.
    replayed = compute_exit_metrics(thresholds=0.8)(evaluated())
    routed = routed_exit_metrics()(EvalPrediction(predictions=(logits, index, exit_logits), label_ids=LABELS))
    assert routed == {name: replayed[name] for name in routed}


@pytest.mark.parametrize("predictions", [EXIT_LOGITS, EXIT_LOGITS[:, 0], (EXIT_LOGITS[:, 0], EXIT_LOGITS)])
def test_what_no_sidenets_answered_is_refused(predictions):
    with pytest.raises(ValueError, match="`predictions` must be `logits`, `exit_index` and `exit_logits`"):
        routed_exit_metrics()(EvalPrediction(predictions=predictions, label_ids=LABELS))


def test_the_stock_trainer_with_exits_on_is_refused(tmp_path):
    model = tiny_bert()
    model.config.thresholds = [0.5, 0.5]
    with pytest.raises(ValueError, match="Evaluate with exits off"):
        trainer(model, tmp_path).evaluate()
