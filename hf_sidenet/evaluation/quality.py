# SPDX-License-Identifier: Apache-2.0
"""Quality of each exit by itself: accuracy, calibration, and how well its confidence separates right from wrong."""

from dataclasses import dataclass

import torch

from ..measurement.metrics import PAPER_BINS, STANDARD_BINS, ReliabilityBin, reliability_bins
from ..measurement.records import ExitRecords
from .bootstrap import (
    Interval,
    Statistic,
    calibrated_errors,
    percentiles,
    weighted_auroc,
    weighted_calibration_error,
    weighted_mean_among,
    weighted_means,
)


# Field of ExitQuality → bins.
BINNINGS = {"paper_ece": PAPER_BINS, "standard_ece": STANDARD_BINS}


@dataclass(frozen=True)
class CalibrationError:
    """Expected calibration error of one exit.

    Args:
        error (`Interval`): error over the rows in the bins, a fraction; NaN if there are none.
        calibrated (`Interval`):
            Error of a perfectly calibrated model with the same confidences: mean, and the band around it.
            An error inside the band is no evidence of miscalibration.
        num_below (`int`): number of rows with a confidence below the first bin, which are ignored.
        bins (`list[ReliabilityBin]`): the reliability diagram.
    """

    error: Interval
    calibrated: Interval
    num_below: int
    bins: list[ReliabilityBin]


@dataclass(frozen=True)
class ExitQuality:
    """Quality of one exit on the test rows: fractions, each with its bootstrap interval.

    Args:
        name (`str`): `"SideNet 0"`, ..., `"MainNet"`.
        accuracy (`Interval`): accuracy over all rows.
        answered_accuracy (`Interval`): accuracy over the rows answered at this exit; NaN if there are none.
        num_answered (`int`): number of rows answered at this exit.
        paper_ece (`CalibrationError`): ECE with the paper's 8 bins over 0.2-1.
        standard_ece (`CalibrationError`): ECE with 15 bins over 0-1.
        auroc (`Interval`):
            Probability that a correct row has a higher confidence than a wrong one, ties counting half; NaN if all are
            correct or all are wrong.
        overthinking (`Interval`, *optional*):
            Fraction of all rows that this SideNet gets right and the MainNet wrong; `None` for the MainNet.
        ensemble_accuracy (`Interval`, *optional*):
            Accuracy of the mean of this SideNet's and the MainNet's probabilities; `None` for the MainNet.
    """

    name: str
    accuracy: Interval
    answered_accuracy: Interval
    num_answered: int
    paper_ece: CalibrationError
    standard_ece: CalibrationError
    auroc: Interval
    overthinking: Interval | None = None
    ensemble_accuracy: Interval | None = None


def exit_confidences(records: ExitRecords, exit_index: int, temperature: float) -> torch.Tensor:
    """Return the confidence of one exit in every row, of shape `(num_rows,)`; 0 where its logits are NaN."""
    return records.task.confidence(records.exit_logits[:, exit_index], temperature).nan_to_num(0.0)


def ensemble_correct(records: ExitRecords, exits: list[int], temperatures: list[float]) -> torch.Tensor:
    """Return which rows the mean probabilities of some exits get right: bools of shape `(num_rows,)`."""
    at = torch.tensor([[temperatures[i]] for i in exits]).double()
    return records.correct(records.task.probabilities(records.exit_logits[:, exits].double(), at).mean(1))


def exit_statistics(
    records: ExitRecords, exit_index: int, temperatures: list[float], answered_at: torch.Tensor
) -> dict[str, Statistic]:
    """Return the statistics of one exit to bootstrap, by field of [`ExitQuality`].

    Args:
        records ([`ExitRecords`]): the test rows.
        exit_index (`int`): index of the exit.
        temperatures (`list[float]`): one per exit.
        answered_at (`torch.LongTensor` of shape `(num_rows,)`): the exit that answers each row.
    """
    mainnet = records.num_exits - 1
    confidences = exit_confidences(records, exit_index, temperatures[exit_index])
    correct = records.correct(records.exit_logits[:, exit_index])
    statistics = {
        "accuracy": weighted_means(correct[:, None]),
        "answered_accuracy": weighted_mean_among(correct, answered_at == exit_index),
        "auroc": weighted_auroc(confidences, correct),
        **{name: weighted_calibration_error(confidences, correct, **bins) for name, bins in BINNINGS.items()},
    }
    if exit_index < mainnet:
        mainnet_correct = records.correct(records.exit_logits[:, mainnet])
        together = ensemble_correct(records, [exit_index, mainnet], temperatures)
        statistics["overthinking"] = weighted_means((correct & ~mainnet_correct)[:, None])
        statistics["ensemble_accuracy"] = weighted_means(together[:, None])
    return statistics


def exit_quality(
    records: ExitRecords,
    exit_index: int,
    temperature: float,
    answered_at: torch.Tensor,
    intervals: dict[str, Interval],
    *,
    num_samples: int,
    level: float,
    seed: int,
) -> ExitQuality:
    """Combine the intervals of [`exit_statistics`] with the diagrams and the bands of a calibrated model.

    Args:
        records ([`ExitRecords`]): the test rows.
        exit_index (`int`): index of the exit.
        temperature (`float`): temperature of the exit.
        answered_at (`torch.LongTensor` of shape `(num_rows,)`): the exit that answers each row.
        intervals (`dict[str, Interval]`): interval of each statistic.
        num_samples (`int`): number of simulations of a calibrated model.
        level (`float`): fraction of the simulations inside the band.
        seed (`int`): seed of the simulations.
    """
    confidences = exit_confidences(records, exit_index, temperature)
    correct = records.correct(records.exit_logits[:, exit_index])
    simulated = calibrated_errors(confidences, list(BINNINGS.values()), num_samples, seed)
    errors = {}
    for (name, binning), samples in zip(BINNINGS.items(), simulated.T.contiguous(), strict=True):
        bins, num_below = reliability_bins(confidences, correct, **binning)
        band = Interval(samples.mean().item(), *percentiles(samples, level))
        errors[name] = CalibrationError(intervals[name], band, num_below, bins)
    return ExitQuality(
        name="MainNet" if exit_index == records.num_exits - 1 else f"SideNet {exit_index}",
        num_answered=int((answered_at == exit_index).sum()),
        **{**intervals, **errors},
    )
