# SPDX-License-Identifier: Apache-2.0
"""Compare exported stages to the model's own before publishing them."""

import torch

from ..inference.stages import Stages
from .exported import ExportedStages
from .programs import ExportError, example_rows, token_inputs


# Largest allowed difference, as a fraction of the largest value of the output.
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}
# Numbers of rows and tokens to compare on, different from those used for tracing.
COMPARED = ((5, 11), (1, 1), (2, 3))


@torch.no_grad()
def largest_difference(exported: ExportedStages, stages: Stages) -> float:
    """Return the largest difference between exported stages and the model's own, on random rows and equal x_c.

    Args:
        exported ([`ExportedStages`]): the export.
        stages ([`Stages`]): the chain that was exported.

    Returns:
        `float`: the difference, as a fraction of the largest value of that output (x_c or logits of a stage).

    Raises:
        ExportError: it is more than rounding, or an output has another shape or dtype.
    """
    found: dict[str, list[torch.Tensor]] = {}
    expected: dict[str, list[torch.Tensor]] = {}
    for seed, (num_rows, num_tokens) in enumerate(COMPARED):
        rows = example_rows(stages, num_rows, min(num_tokens, stages.max_length or num_tokens), seed + 1)
        # Missing inputs must have the same defaults in both.
        optional = token_inputs(stages.config.mainnet_config)
        for inputs in (rows, {name: value for name, value in rows.items() if name not in optional}):
            hidden = None
            for index in range(len(stages)):
                got, right = exported(index, hidden, inputs), stages(index, hidden, inputs)
                for name, left, value in zip(("x_c", "logits"), got, right, strict=True):
                    if value is None:
                        continue
                    where = f"{name} of stage {index}"
                    assert left is not None  # The export has the same outputs.
                    _check_alike(left, value, where)
                    mask = inputs.get("attention_mask") if name == "x_c" else None
                    # Kernels may leave anything in padding.
                    kept = slice(None) if mask is None else mask.bool()
                    found.setdefault(where, []).append(left[kept].double().flatten())
                    expected.setdefault(where, []).append(value[kept].double().flatten())
                hidden = right[0]
    largest, limit = 0.0, TOLERANCES[stages.dtype]
    for where, values in expected.items():
        scale = torch.cat(values).abs().max().clamp(min=1e-30)
        difference = float((torch.cat(found[where]) - torch.cat(values)).abs().max() / scale)
        if not difference <= limit:
            raise ExportError(
                f"the exported {where} differs from the model's by {difference:.1e} of its largest value, more than "
                f"rounding ({limit:.0e})."
            )
        largest = max(largest, difference)
    return largest


def _check_alike(found: torch.Tensor, expected: torch.Tensor, where: str) -> None:
    if found.shape != expected.shape or found.dtype != expected.dtype:
        raise ExportError(
            f"the exported {where} must be {expected.dtype} of shape {tuple(expected.shape)}, got {found.dtype} of "
            f"shape {tuple(found.shape)}."
        )
