# SPDX-License-Identifier: Apache-2.0
"""A classifier without SideNets as a chain of one stage, so that the same engines can run it, in PyTorch and ONNX
Runtime."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from ..data.limits import longest_text
from ..export.onnx import open_session
from ..export.onnx_graph import load, quantize_convolutions, quantize_linears, save, to_onnx
from ..export.programs import export_stage, token_inputs, user_inputs
from ..inference.engine import by_kind, padding_of
from ..inference.precision import precision_of
from ..inference.protocols import StageChain
from ..inference.rows import Row, collate
from ..inference.stages import Stages
from ..models.gate import remove_gates, sharing_weights
from ..models.modeling_base import SideNetPreTrainedModel
from ..models.row_inputs import arguments_of
from ..models.tasks import task_of


# Batch size for calibrating the ranges of convolutions.
BATCH_SIZE = 32


@dataclass
class PlainConfig:
    """Part of a chain's config that engines read.

    Args:
        mainnet_config (`PretrainedConfig`): config of the classifier.
        temperatures (`list[float]`, *optional*): temperature of its only exit.
        input_size (`list[int]`, *optional*): `[channels, height, width]` of the images for export.
    """

    mainnet_config: PretrainedConfig
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    input_size: list[int] | None = None

    @property
    def exit_layers(self) -> list[int]:
        """Places of SideNets: none."""
        return []

    @property
    def id2label(self) -> dict[int, str]:
        """Names of the classes."""
        return cast("dict[int, str]", self.mainnet_config.id2label)

    @property
    def num_labels(self) -> int:
        """Number of classes."""
        return cast(int, self.mainnet_config.num_labels)


class PlainStage(nn.Module):
    """Module from inputs to logits.

    Args:
        classifier (`PreTrainedModel`): any classifier.
        names (`tuple[str, ...]`): inputs that it takes; others are ignored.
        fixed (`dict[str, Any]`): fixed arguments of every call.
    """

    def __init__(self, classifier: PreTrainedModel, names: tuple[str, ...], fixed: dict[str, Any]):
        super().__init__()
        self.classifier = classifier
        self.names = names
        self.fixed = fixed

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        """Return logits of shape `(rows, num_labels)`."""
        known = {name: value for name, value in inputs.items() if name in self.names}
        return self.classifier(**known, **self.fixed, return_dict=True).logits


class PlainChain:
    """Like [`Stages`], with a single stage.

    Args:
        classifier (`PreTrainedModel`): classifier in evaluation mode.
        input_size (`list[int]`, *optional*): see [`PlainConfig`].
    """

    def __init__(self, classifier: PreTrainedModel, input_size: list[int] | None = None):
        taken = arguments_of(classifier)
        self.task, self.modality = task_of(classifier.config)
        self.input_names = self.modality.row_inputs(taken)
        self.config = PlainConfig(classifier.config, input_size=input_size)
        self.device = classifier.device
        self.dtype = classifier.dtype
        self.precision = precision_of(classifier)
        self.max_length = longest_text(classifier) if self.modality.has_tokens else None
        fixed = {"use_cache": False} if "use_cache" in taken else {}
        self.modules = [PlainStage(classifier, self.input_names, fixed).eval()]

    def check_mode(self) -> None:
        """See [`StageChain`]. Does nothing: a classifier is not trained while it is timed."""

    def __len__(self) -> int:
        return 1

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[None, torch.Tensor]:
        """See [`Stages`]."""
        return None, self.modules[index](**inputs)


def plain_mainnet(model: SideNetPreTrainedModel) -> PreTrainedModel:
    """Return the MainNet without the gates, sharing its weights: even an idle gate costs time.

    Args:
        model ([`SideNetPreTrainedModel`]): the model, not changed.
    """
    mainnet = sharing_weights(model.mainnet)
    remove_gates(mainnet)
    return mainnet.eval()


def export_plain(chain: PlainChain, path: str | os.PathLike, *, int8: bool, rows: Sequence[Row] = ()) -> None:
    """Export a classifier to one ONNX file, with the same steps as [`export_onnx`].

    Args:
        chain ([`PlainChain`]): classifier in float32 or float16, on the CPU.
        path (`str` or `os.PathLike`): output file.
        int8 (`bool`): quantize linear layers to int8, or convolutions if there are none.
        rows (`Sequence[Row]`, *optional*): rows to calibrate the input ranges of convolutions.

    Raises:
        ExportError: the classifier cannot be exported.
        ImportError: onnx or onnxscript is not installed.
    """
    path = Path(path)
    # A PlainChain has all attributes of Stages that an export reads.
    program = export_stage(cast(Stages, chain), 0)
    names = user_inputs(program)
    save(to_onnx(program, names, ["logits"], chain.modality.axes, None), path)
    if not int8:
        return
    model = load(path)
    if quantize_linears(model, chain.task.num_outputs(chain.config.mainnet_config)):
        save(model, path)
    else:
        quantize_convolutions(path, path, _feeds(chain, names, rows))


class PlainOnnx:
    """Like [`PlainChain`], run by ONNX Runtime with the options of [`OnnxStages`].

    Args:
        path (`str` or `os.PathLike`): file of [`export_plain`].
        config ([`PlainConfig`]): config of the classifier.
        dtype (`torch.dtype`): dtype of its images and logits.
    """

    def __init__(self, path: str | os.PathLike, config: PlainConfig, dtype: torch.dtype):
        self.session = open_session(path)
        self.input_names = tuple(each.name for each in self.session.get_inputs())
        self.config = config
        self.dtype = dtype
        self.device = torch.device("cpu")
        self.precision = str(dtype).removeprefix("torch.")
        self.max_length = None
        self.task, self.modality = task_of(config.mainnet_config)

    def check_mode(self) -> None:
        """See [`StageChain`]. Does nothing: a file has no mode."""

    def __len__(self) -> int:
        return 1

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[None, torch.Tensor]:
        """See [`Stages`]."""
        shape = next(iter(inputs.values())).shape[:2]
        optional = token_inputs(self.config.mainnet_config)
        feed = {}
        for name in self.input_names:
            value = inputs.get(name)
            value = optional[name].filled(shape) if value is None else value
            feed[name] = value.contiguous().numpy()
        (logits,) = self.session.run(None, feed)
        return None, torch.from_numpy(logits)


def _feeds(chain: PlainChain, names: Sequence[str], rows: Sequence[Row]) -> Any:
    for alike in by_kind(rows):
        for start in range(0, len(alike), BATCH_SIZE):
            batch = collate(alike[start : start + BATCH_SIZE], padding_of(cast(StageChain, chain)), chain.device)
            yield {name: batch.inputs[name].numpy() for name in names}
