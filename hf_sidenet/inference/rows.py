# SPDX-License-Identifier: Apache-2.0
"""Rows on their way through the stages: inputs, predictions, batches, and packets for another process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from ..models.row_inputs import follows_tokens


@dataclass(slots=True, eq=False)
class Row:
    """One input, not padded.

    Args:
        place (`int`): index of the row in its stream.
        inputs (`dict[str, torch.Tensor]`): MainNet inputs without the batch axis: for texts, most have one entry per
            token, see [`follows_tokens`]; for images, `pixel_values (channels, height, width)`.
        length (`int`): number of tokens; 0 for images.
        thresholds (`tuple[float, ...]`): θ of each SideNet for this row.
    """

    place: int
    inputs: dict[str, torch.Tensor]
    length: int
    thresholds: tuple[float, ...]

    @property
    def kind(self) -> tuple:
        """Key that rows of one batch share: the names of the inputs and their sizes that cannot be padded.

        An input that does not follow the tokens is never padded, since it may have no mask: rows with two entities
        share a batch with other rows with two.
        """
        return tuple(
            (name, True, *value.shape[1:]) if self.pads(name) else (name, False, *value.shape)
            for name, value in self.inputs.items()
        )

    def pads(self, name: str) -> bool:
        """Return whether an input is padded and trimmed with the tokens; the same for all rows of one kind.

        Args:
            name (`str`): name of the input.
        """
        return follows_tokens(name, self.inputs[name].shape, self.length)


@dataclass(slots=True, eq=False)
class Prediction:
    """Answer to one row.

    Args:
        place (`int`): index of the row in its stream.
        label (`str`, *optional*): name of the class; `None` if the row failed.
        label_id (`int`, *optional*): index of the class.
        logits (`torch.Tensor` of shape `(num_labels,)`, *optional*): logits of the exit that answered, in float32.
        confidence (`float`, *optional*): largest softmax probability at that exit's temperature.
        exit_index (`int`, *optional*): index of the exit that answered, 0 for the first SideNet.
        error (`Exception`, *optional*): why there is no answer.
    """

    place: int
    label: str | None = None
    label_id: int | None = None
    logits: torch.Tensor | None = None
    confidence: float | None = None
    exit_index: int | None = None
    error: Exception | None = None


@dataclass(slots=True, eq=False)
class Batch:
    """Rows at one stage.

    Args:
        rows (`list[Row]`): rows of one kind.
        inputs (`dict[str, torch.Tensor]`): their inputs, padded on the right; for images, one row of pixels alone
            beside x_c.
        hidden (`torch.Tensor` of shape `(rows, ...)`, *optional*): x_c at the start of the stage; `None` if no block
            has run.
        logits (`torch.Tensor` of shape `(rows, exits, num_labels)`, *optional*): logits of the exits before, if later
            ones build on them.
    """

    rows: list[Row]
    inputs: dict[str, torch.Tensor]
    hidden: torch.Tensor | None = None
    logits: torch.Tensor | None = None

    @property
    def has_tokens(self) -> bool:
        """Whether rows are sequences: every stage needs their inputs, and padding can be trimmed."""
        return self.rows[0].length > 0

    @property
    def one_for_all(self) -> bool:
        """Whether `inputs` has one row for all: after a block, one image gives the size of all."""
        return self.hidden is not None and not self.has_tokens and len(self.inputs) == 1

    def width(self) -> int:
        """Return the number of tokens of the padded batch; 0 for images."""
        padded = (value.shape[1] for name, value in self.inputs.items() if self.rows[0].pads(name))
        return next(padded, 0)

    def select(self, keep: list[int]) -> "Batch":
        """Return a batch of some of the rows, by their indices in this batch."""
        rows = [self.rows[i] for i in keep]
        index = torch.tensor(keep)
        hidden = None if self.hidden is None else _take(self.hidden, index)
        logits = None if self.logits is None else _take(self.logits, index)
        given = self.inputs if self.one_for_all else {k: _take(v, index) for k, v in self.inputs.items()}
        return Batch(rows, given, hidden, logits)


def evenly_spaced(total: int, count: int) -> list[int]:
    """Choose up to `count` evenly spaced indices out of `total`.

    Args:
        total (`int`): number of rows or batches.
        count (`int`): maximum number to choose.
    """
    count = min(count, total)
    return [i * total // count for i in range(count)]


def collate(rows: Sequence[Row], pad: dict[str, float], device: torch.device) -> Batch:
    """Make a batch for stage 0: texts padded on the right to the longest, images and other inputs stacked.

    Args:
        rows (`Sequence[Row]`): rows of one kind.
        pad (`dict[str, float]`): padding values, by input; 0 for inputs not named.
        device (`torch.device`): device of the batch.
    """
    inputs = {}
    for name in rows[0].inputs:
        values = [row.inputs[name] for row in rows]
        if len(values) == 1:
            value = values[0].unsqueeze(0)
        elif rows[0].pads(name):
            value = pad_sequence(values, batch_first=True, padding_value=pad.get(name, 0))
        else:
            value = torch.stack(values)
        if device.type == "cuda":
            value = value.pin_memory().to(device, non_blocking=True)
        inputs[name] = value
    return Batch(list(rows), inputs)


def merge(batches: list[Batch], pad: dict[str, float]) -> Batch:
    """Merge batches at the same stage. Texts are trimmed to the longest row, which removes only padding.

    Args:
        batches (`list[Batch]`): batches of one kind, after stage 0.
        pad (`dict[str, float]`): see [`collate`].
    """
    if len(batches) == 1:
        return batches[0]
    rows = [row for batch in batches for row in batch.rows]
    names, has_state = batches[0].inputs, batches[0].hidden is not None
    known = [batch.logits for batch in batches if batch.logits is not None]
    logits = torch.cat(known) if known else None
    if batches[0].one_for_all:
        return Batch(rows, names, torch.cat([_state(batch) for batch in batches]), logits)
    length = max(row.length for row in rows)
    inputs = {}
    for name in names:
        values = [batch.inputs[name] for batch in batches]
        if rows[0].pads(name):
            values = [_to_length(value, length, pad.get(name, 0)) for value in values]
        inputs[name] = torch.cat(values)
    if not has_state:
        return Batch(rows, inputs, None, logits)
    states = [_state(batch) for batch in batches]
    hidden = torch.cat([_to_length(state, length, 0) for state in states] if length else states)
    return Batch(rows, inputs, hidden, logits)


def trim(batch: Batch) -> Batch:
    """Return the batch without columns that are padding in every row."""
    length = max(row.length for row in batch.rows)
    if batch.width() == length:
        return batch
    first = batch.rows[0]
    cut = {name: value[:, :length].contiguous() if first.pads(name) else value for name, value in batch.inputs.items()}
    hidden = None if batch.hidden is None else batch.hidden[:, :length].contiguous()
    return Batch(batch.rows, cut, hidden, batch.logits)


def check_tokens(hidden: torch.Tensor | None, width: int) -> None:
    """Refuse x_c that cannot be padded and trimmed like its text.

    Args:
        hidden (`torch.Tensor`, *optional*): x_c at the end of a stage.
        width (`int`): number of tokens of the inputs; 0 for images.

    Raises:
        ValueError: x_c has other vectors than one per token, such as those of a picture (LayoutLMv3).
    """
    if hidden is not None and width and hidden.shape[1] != width:
        raise ValueError(
            f"x_c of a text must have one vector per token, {width}, got {hidden.shape[1]}: leave out `pixel_values` "
            "or other inputs that add vectors, or use `routing='gates'` in the runner."
        )


def _state(batch: Batch) -> torch.Tensor:
    """Return x_c of a batch that has run through a block."""
    assert batch.hidden is not None
    return batch.hidden


def _take(value: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    if value.device.type == "cuda":
        index = index.pin_memory().to(value.device, non_blocking=True)
    return value.index_select(0, index)


def _to_length(value: torch.Tensor, length: int, pad: float) -> torch.Tensor:
    if value.shape[1] >= length:
        return value[:, :length]
    return F.pad(value, (0, 0) * (value.dim() - 2) + (0, length - value.shape[1]), value=pad)


@dataclass(slots=True, eq=False)
class Packet:
    """Rows of one request that wait for a stage.

    Args:
        places (`list[int]`): indices of the rows in their request.
        lengths (`list[int]`): numbers of tokens; 0 for images.
        thresholds (`list[tuple[float, ...]]`): θ of each SideNet, by row.
        inputs (`dict[str, np.ndarray]`): MainNet inputs, see [`Batch`].
        hidden (`np.ndarray` of shape `(rows, ...)`, *optional*): x_c at the start of the stage; bfloat16 as raw bits.
        dtype (`str`, *optional*): dtype of x_c.
        logits (`np.ndarray` of shape `(rows, exits, num_labels)`, *optional*): see [`Batch`].
        padded (`list[str]`, *optional*): inputs of texts that are padded; `None` for all.
    """

    places: list[int]
    lengths: list[int]
    thresholds: list[tuple[float, ...]]
    inputs: dict[str, np.ndarray]
    hidden: np.ndarray | None
    dtype: str | None
    logits: np.ndarray | None = None
    padded: list[str] | None = None

    def __len__(self) -> int:
        return len(self.places)


def pack(batch: Batch) -> Packet:
    """Pack rows of one kind, after a stage."""
    hidden = None if batch.hidden is None else batch.hidden.cpu().contiguous()
    return Packet(
        places=[row.place for row in batch.rows],
        lengths=[row.length for row in batch.rows],
        thresholds=[row.thresholds for row in batch.rows],
        inputs={name: value.cpu().numpy() for name, value in batch.inputs.items()},
        hidden=None if hidden is None else _to_numpy(hidden),
        dtype=None if hidden is None else str(hidden.dtype).removeprefix("torch."),
        logits=None if batch.logits is None else batch.logits.cpu().numpy(),
        padded=[name for name in batch.inputs if batch.rows[0].pads(name)],
    )


def _to_numpy(hidden: torch.Tensor) -> np.ndarray:
    # NumPy has no bfloat16.
    return (hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden).numpy()


def unpack(packet: Packet, device: torch.device) -> Batch:
    """Unpack a batch.

    Args:
        packet ([`Packet`]): the packet received.
        device (`torch.device`): device of the batch.
    """
    # Copied because received memory may be read-only, which torch warns about.
    inputs = {name: torch.from_numpy(value.copy()) for name, value in packet.inputs.items()}
    hidden = None
    if packet.hidden is not None and packet.dtype is not None:
        hidden = torch.from_numpy(packet.hidden.copy()).view(getattr(torch, packet.dtype)).to(device)
    rows, has_tokens = [], any(packet.lengths)
    padded = (packet.inputs if has_tokens else ()) if packet.padded is None else packet.padded
    shared = hidden is not None and not has_tokens and len(inputs) == 1
    for i, (place, length, thresholds) in enumerate(
        zip(packet.places, packet.lengths, packet.thresholds, strict=True)
    ):
        which = 0 if shared else i
        own = {name: value[which, :length] if name in padded else value[which] for name, value in inputs.items()}
        rows.append(Row(place, own, length, thresholds))
    logits = None if packet.logits is None else torch.from_numpy(packet.logits.copy()).to(device)
    return Batch(rows, {name: value.to(device) for name, value in inputs.items()}, hidden, logits)
