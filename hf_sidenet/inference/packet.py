# SPDX-License-Identifier: Apache-2.0
"""Rows on their way from one stage to the next, in another process: plain arrays, cheap to send."""

from dataclasses import dataclass

import numpy as np
import torch

from .rows import Batch, Row


@dataclass(slots=True, eq=False)
class Packet:
    """Rows of one request that wait for a stage.

    Args:
        places (`list[int]`): numbers of the rows in their request.
        lengths (`list[int]`): tokens; 0 for images.
        thresholds (`list[tuple[float, ...]]`): θ of each SideNet, by row.
        inputs (`dict[str, np.ndarray]`): the MainNet's inputs, padded on the right; of images one row.
        hidden (`np.ndarray` of shape `(rows, ...)`): x_c where the stage starts; of bfloat16 the bits.
        dtype (`str`): of x_c.
    """

    places: list[int]
    lengths: list[int]
    thresholds: list[tuple[float, ...]]
    inputs: dict[str, np.ndarray]
    hidden: np.ndarray
    dtype: str

    def __len__(self) -> int:
        return len(self.places)


def pack(batch: Batch) -> Packet:
    """The packet of rows after a stage, of one kind."""
    hidden = batch.hidden.cpu().contiguous()
    return Packet(
        places=[row.place for row in batch.rows],
        lengths=[row.length for row in batch.rows],
        thresholds=[row.thresholds for row in batch.rows],
        inputs={name: value.cpu().numpy() for name, value in batch.inputs.items()},
        # NumPy has no bfloat16.
        hidden=(hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden).numpy(),
        dtype=str(hidden.dtype).removeprefix("torch."),
    )


def unpack(packet: Packet, device: torch.device) -> Batch:
    """The batch of a packet.

    Args:
        packet ([`Packet`]): that came.
        device (`torch.device`): where it goes.
    """
    # What was sent may be memory that nobody may write to, of which torch warns.
    inputs = {name: torch.from_numpy(value.copy()) for name, value in packet.inputs.items()}
    hidden = torch.from_numpy(packet.hidden.copy()).view(getattr(torch, packet.dtype))
    rows = []
    for i, (place, length, thresholds) in enumerate(
        zip(packet.places, packet.lengths, packet.thresholds, strict=True)
    ):
        own = {name: value[i, :length] if length else value[0] for name, value in inputs.items()}
        rows.append(Row(place, own, length, thresholds))
    return Batch(rows, {name: value.to(device) for name, value in inputs.items()}, hidden.to(device))
