# SPDX-License-Identifier: Apache-2.0
"""Answer one row at one θ: the exit that answers, the confidence of every exit, and the cost."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch

from ..data.formats import Processor
from ..inference.engine import RowError, not_finite
from ..inference.reading import RowReader, own_tokenizer
from ..inference.stages import Served
from ..models.modeling_base import SideNetOutput, SideNetPreTrainedModel
from ..models.tasks import label_names


@dataclass(frozen=True)
class ExitOutput:
    """Result of one exit for a row.

    Args:
        name (`str`): `"SideNet 0"`, ..., `"MainNet"`.
        place (`str`): how much of the MainNet runs before it.
        label (`str`): predicted class.
        confidence (`float`): confidence at the exit's temperature.
        threshold (`float`, *optional*): θ; `None` for the MainNet.
        flops (`float`): FLOPs of an answer here, as a fraction of the MainNet's.
    """

    name: str
    place: str
    label: str
    confidence: float
    threshold: float | None
    flops: float


@dataclass(frozen=True)
class Answer:
    """Answer to a row.

    Args:
        exit_index (`int`): index of the exit that answered.
        exits (`list[ExitOutput]`): results of all exits, including those that the row did not reach.
        milliseconds (`float`): time of the answer on this machine.
        all_milliseconds (`float`): time of all blocks and exits on this machine.
        read_tokens (`int`, *optional*): number of tokens read, if a text was too long.
    """

    exit_index: int
    exits: list[ExitOutput]
    milliseconds: float
    all_milliseconds: float
    read_tokens: int | None

    @property
    def answered(self) -> ExitOutput:
        """Result of the exit that answered."""
        return self.exits[self.exit_index]


class Answering:
    """Answers single rows with the model's own forward.

    Args:
        model ([`SideNetPreTrainedModel`]): model in evaluation mode.
        processor (tokenizer or image processor): processor of the model.
        flops (`list[float]`, *optional*):
            FLOPs per exit, as fractions of the MainNet's; by default of the blocks before it, without the SideNets.
        max_length (`int`, *optional*): tokens at which texts are truncated.
    """

    def __init__(
        self,
        model: SideNetPreTrainedModel,
        processor: Processor | None,
        flops: Sequence[float] | None = None,
        max_length: int | None = None,
    ):
        self.model = model
        self.reader = RowReader(Served(model), processor, max_length)
        self._whole_texts = cast(Callable[..., Mapping[str, Any]], own_tokenizer(processor, verbose=False))
        layers = model.config.exit_layers
        points = {point.exit_layer: point for point in model.exit_points()}
        self.flops = list(flops) if flops is not None else [*(points[layer].flops for layer in layers), 1.0]
        self.classes = label_names(model.config)
        self.names = [*(f"SideNet {i}" for i in range(len(layers))), "MainNet"]
        num_blocks = max(points) + 1
        self.places = [
            *(f"after block {layer} of {num_blocks}" if layer else "before the first block" for layer in layers),
            f"all {num_blocks} blocks",
        ]

    def __call__(self, row: Any, thresholds: Sequence[float]) -> Answer:
        """Answer a row.

        Args:
            row (`str`, `tuple[str, str]` or `PIL.Image.Image`): a text, a pair of texts or a picture.
            thresholds (`Sequence[float]`): θ of each SideNet.

        Raises:
            RowError: the row cannot be answered.
        """
        (read,) = self.reader.read([0], [row], [self.reader.thresholds(list(thresholds))])
        if isinstance(read, RowError):
            raise read
        inputs = {name: value[None].to(self.model.device) for name, value in read.inputs.items()}
        # At θ = 1 no row exits early, so every exit is computed. The first call is a warm-up.
        self._timed(inputs, [1.0] * len(read.thresholds))
        routed, milliseconds = self._timed(inputs, read.thresholds)
        every, all_milliseconds = self._timed(inputs, [1.0] * len(read.thresholds))
        exits, exit_index = self._exits(every.exit_logits[0].float().cpu(), read.thresholds), int(routed.exit_index[0])
        if math.isnan(exits[exit_index].confidence):
            raise not_finite(0, exit_index)
        return Answer(exit_index, exits, milliseconds, all_milliseconds, self._read_tokens(row))

    def _timed(self, inputs: dict[str, torch.Tensor], thresholds: Sequence[float]) -> tuple[SideNetOutput, float]:
        with torch.inference_mode():
            start = time.perf_counter()
            output = self.model(**inputs, thresholds=list(thresholds))
            # Synchronizes with a GPU.
            output.exit_index.cpu()
            return output, 1e3 * (time.perf_counter() - start)

    def _read_tokens(self, row: Any) -> int | None:
        """Return how many tokens of a text were read; `None` if all."""
        if not self.model.modality.has_tokens:
            return None
        texts = row if isinstance(row, tuple) else (row,)
        num_tokens = len(self._whole_texts(*texts, verbose=False)["input_ids"])
        return self.reader.max_length if num_tokens > self.reader.max_length else None

    def _exits(self, logits: torch.Tensor, thresholds: Sequence[float]) -> list[ExitOutput]:
        config, task = self.model.config, self.model.task
        return [
            ExitOutput(
                name,
                place,
                self.classes[int(task.answer(logits[index]))],
                float(task.confidence(logits[index : index + 1], config.temperatures[index])),
                thresholds[index] if index < len(thresholds) else None,
                self.flops[index],
            )
            for index, (name, place) in enumerate(zip(self.names, self.places, strict=True))
        ]
