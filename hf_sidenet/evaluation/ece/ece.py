# SPDX-License-Identifier: Apache-2.0
"""Expected calibration error as a metric for `evaluate`, which copies this file and runs the copy."""

# Absolute and not indented: `evaluate` parses these lines to check the requirements.
import datasets
import evaluate
import torch

from hf_sidenet.measurement.metrics import correct_rows, expected_calibration_error, reliability_bins
from hf_sidenet.models.errors import ArgumentError


DESCRIPTION = """
Expected calibration error (ECE): the mean absolute difference between confidence and accuracy over bins of confidence,
weighted by the number of rows in the bin. A fraction; 0 is perfectly calibrated.
"""

INPUTS = """
Args:
    predictions (`list[list[float]]` of shape `(num_rows, num_labels)`): class probabilities.
    references (`list[int]` of shape `(num_rows,)`): class indices.
    num_bins (`int`, *optional*, defaults to 15): bins of equal width, closed on the right.
    low (`float`, *optional*, defaults to 0.0): lower edge of the first bin. Rows below it are ignored.
    high (`float`, *optional*, defaults to 1.0): upper edge of the last bin.

Returns:
    `dict`: `ece` (`float`), NaN if no row lies in the bins, and `num_below` (`int`), the number of rows below `low`.

Example:

```python
>>> metric = evaluate.load("hf_sidenet/evaluation/ece")
>>> metric.compute(predictions=[[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]], references=[0, 1, 1])
{'ece': 0.4000..., 'num_below': 0}
```
"""

CITATION = """
@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {ICML},
  year = {2017},
  url = {https://arxiv.org/abs/1706.04599}
}
"""

# Tolerance for the sum of a row's probabilities: half precision and rounded files are off by this much.
SUM_TOLERANCE = 1e-2


class ECE(evaluate.Metric):
    """Expected calibration error, computed as in the rest of `hf_sidenet`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1706.04599"],
        )

    def _compute(self, predictions, references, num_bins: int = 15, low: float = 0.0, high: float = 1.0) -> dict:
        """Compute the result described in `INPUTS`.

        Raises:
            ValueError: `predictions` are not probabilities, or the bins are invalid.
        """
        probabilities = torch.as_tensor(predictions, dtype=torch.float32)
        labels = torch.as_tensor(references)
        sums = probabilities.sum(-1)
        wrong = ((sums - 1).abs() > SUM_TOLERANCE) | (probabilities < 0).any(-1)
        if wrong.any():
            row = int(wrong.nonzero()[0])
            raise ArgumentError(
                "predictions",
                "must hold class probabilities, ≥ 0 and with sum 1, got "
                f"{probabilities[row].tolist()} in row {row}. Apply a softmax to logits",
            )
        confidences, correct = probabilities.amax(-1), correct_rows(probabilities, labels)
        ece = expected_calibration_error(confidences, correct, num_bins, low, high)
        _, num_below = reliability_bins(confidences, correct, num_bins, low, high)
        return {"ece": ece, "num_below": num_below}
