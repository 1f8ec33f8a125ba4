# SPDX-License-Identifier: Apache-2.0
"""Tables on what confidence means: figure 3 and table 1 of the paper, and its remark on θ."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from found import Run, with_exits
from scipy.stats import binomtest

from hf_sidenet.evaluation.bootstrap import calibrated_errors, percentiles
from hf_sidenet.evaluation.quality import exit_confidences
from hf_sidenet.measurement import (
    PAPER_BINS,
    STANDARD_BINS,
    correct_rows,
    expected_calibration_error,
    reliability_bins,
)


NUM_SAMPLES = 500
THETAS = (0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99)
LEVEL = 0.95


def calibration_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return expected calibration errors, each with the band that would contain a calibrated model's."""
    rows = []
    for which, confidences, correct in _exits(runs):
        band = calibrated_errors(confidences, [PAPER_BINS, STANDARD_BINS], NUM_SAMPLES, seed=0)
        row = dict(which)
        for number, (bins, name) in enumerate(((PAPER_BINS, "ece_8"), (STANDARD_BINS, "ece_15"))):
            low, high = percentiles(band[:, number], LEVEL)
            error = expected_calibration_error(confidences, correct, **bins)
            row |= {name: error, f"{name}_band_low": low, f"{name}_band_high": high}
        row["below_paper_bins"] = int((confidences < PAPER_BINS["low"]).sum())
        row["accuracy"] = correct.double().mean().item()
        row["mean_confidence"] = confidences.double().mean().item()
        rows.append(row)
    return rows


def reliability_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return accuracy and mean confidence by bins of confidence: a reliability diagram in numbers."""
    rows = []
    for which, confidences, correct in _exits(runs):
        for name, binning in (("8", PAPER_BINS), ("15", STANDARD_BINS)):
            for part in reliability_bins(confidences, correct, **binning)[0]:
                if part.count:
                    values = {"low": part.low, "high": part.high, "count": part.count}
                    rows.append(
                        {**which, "bins": name, **values, "accuracy": part.accuracy, "confidence": part.confidence}
                    )
    return rows


def theta_table(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Is a row whose confidence is above θ right with a probability of at least θ? Overall, and just above θ."""
    rows = []
    for which, confidences, correct in _exits(runs):
        for theta, following in zip(THETAS, (*THETAS[1:], 1.0), strict=True):
            above = confidences > theta
            just = above & (confidences <= following)
            row = {**which, "threshold": theta}
            for name, chosen in (("above", above), ("just_above", just)):
                count, right = int(chosen.sum()), int((chosen & correct).sum())
                row[f"rows_{name}"] = count
                row[f"accuracy_{name}"] = right / count if count else None
                row[f"high_{name}"] = _upper(right, count)
            rows.append(row)
    return rows


def _upper(right: int, count: int) -> float | None:
    """Return the upper end of the exact interval: if it is below θ, the claim is refuted at this level."""
    return binomtest(right, count).proportion_ci(LEVEL, method="exact").high if count else None


def _exits(runs: Sequence[Run]) -> Iterator[tuple[dict[str, Any], torch.Tensor, torch.Tensor]]:
    """Yield every exit of every run, raw and with its temperature: confidences and correctness on the test rows."""
    for run in with_exits(runs):
        names = [*(f"SideNet {layer}" for layer in run.exit_layers), "MainNet"]
        for i, name in enumerate(names):
            correct = correct_rows(run.test.exit_logits[:, i], run.test.labels)
            for temperature, fitted in ((1.0, "as trained"), (run.temperatures[i], "with temperature")):
                which = {
                    "experiment": run.name,
                    "group": run.about["group"],
                    "seed": run.seed,
                    "exit": name,
                    "fitted": fitted,
                    "temperature": temperature,
                }
                yield which, exit_confidences(run.test, i, temperature), correct
