# SPDX-License-Identifier: Apache-2.0
"""The stages of a model, one after the other."""

import torch


def chained(stages, inputs):
    hidden, columns = None, []
    with torch.no_grad():
        for index in range(len(stages)):
            hidden, logits = stages(index, hidden, inputs)
            columns.append(logits)
    return torch.stack(columns, 1)
