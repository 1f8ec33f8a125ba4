# SPDX-License-Identifier: Apache-2.0
"""One trained model with SideNets in its compressed versions, none of which is retrained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import costs_of

from hf_sidenet.benchmark.methods import EAGER, ONNX_RUNTIME
from hf_sidenet.benchmark.plain import PlainChain, PlainConfig, PlainOnnx, export_plain, plain_mainnet
from hf_sidenet.data.rows import Rows
from hf_sidenet.export import OnnxStages, export_onnx
from hf_sidenet.inference import Stages
from hf_sidenet.inference.precision import cast_copy
from hf_sidenet.measurement import ExitCosts
from hf_sidenet.models.modeling_base import SideNetPreTrainedModel


CALIBRATION_ROWS = 512


@dataclass(frozen=True, eq=False)
class Version:
    """A compressed MainNet, with and without its SideNets.

    Args:
        name (`str`): `"float32"`, `"bfloat16"`, `"int8"` or `"cut"`.
        engine (`str`): that runs it.
        chain ([`StageChain`]): the version with its SideNets.
        model ([`SideNetPreTrainedModel`], *optional*): the same, if its own forward can route.
        plain ([`PlainChain`] or similar): the version without SideNets, as a chain whose first stage answers.
        costs ([`ExitCosts`]): of its exits, as fractions of `plain`. Operations are counted, whatever their precision.
        as_recorded (`bool`): whether its exits give the same answers as the first exits of the model in float32.
    """

    name: str
    engine: str
    chain: Any
    model: SideNetPreTrainedModel | None
    plain: Any
    costs: ExitCosts
    as_recorded: bool


class CutChain:
    """The stages of a model without the last: the last SideNet's answer replaces that of a MainNet truncated there.

    Args:
        stages ([`Stages`]): at least three, so that a SideNet remains.
    """

    def __init__(self, stages: Stages):
        self.stages = stages
        self.config = PlainConfig(stages.config.mainnet_config, stages.config.temperatures[:-1])
        self.task, self.modality = stages.task, stages.modality
        self.input_names, self.max_length = stages.input_names, stages.max_length
        self.device, self.dtype, self.precision = stages.device, stages.dtype, stages.precision

    def check_mode(self) -> None:
        """See [`StageChain`]."""
        self.stages.check_mode()

    def __len__(self) -> int:
        return len(self.stages) - 1

    def __call__(
        self, index: int, hidden: torch.Tensor | None, inputs: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See [`Stages`]."""
        return self.stages(index, hidden, inputs)


def versions_of(
    model: SideNetPreTrainedModel, rows: Mapping[str, Rows], costs: ExitCosts, folder: Path
) -> list[Version]:
    """Return all versions, float32 first.

    Args:
        model ([`SideNetPreTrainedModel`]): in float32 on the CPU, with at least two SideNets.
        rows (`Mapping[str, Rows]`): training rows, for the int8 export, and test rows, for counting FLOPs.
        costs ([`ExitCosts`]): of the model, on the same test rows.
        folder (`Path`): for the int8 export; its files are needed as long as that version.

    Raises:
        ValueError: the model has only one SideNet.
        ExportError: the model cannot be exported.
        ImportError: ONNX Runtime is not installed.
    """
    if len(model.sidenets) < 2:
        raise ValueError(
            "the model must have at least two SideNets, since the last one answers for the cut MainNet, got "
            f"{model.config.exit_layers}."
        )
    smaller = cast_copy(model, torch.bfloat16)
    return [
        Version("float32", EAGER, Stages(model), model, PlainChain(plain_mainnet(model)), costs, True),
        Version("bfloat16", EAGER, Stages(smaller), smaller, PlainChain(plain_mainnet(smaller)), costs, False),
        _int8(model, rows["train"], folder, costs),
        _cut(model, rows["test"], costs),
    ]


def _int8(model: SideNetPreTrainedModel, train: Rows, folder: Path, costs: ExitCosts) -> Version:
    step = max(1, len(train) // CALIBRATION_ROWS)
    shown = [train.dataset[i] for i in range(0, len(train), step)][:CALIBRATION_ROWS]
    export_onnx(model, folder / "stages", int8=True, calibration_rows=shown)
    chain = PlainChain(plain_mainnet(model))
    export_plain(chain, folder / "plain.onnx", int8=True)
    plain = PlainOnnx(folder / "plain.onnx", chain.config, model.dtype)
    return Version("int8", ONNX_RUNTIME, OnnxStages.load(folder / "stages"), None, plain, costs, False)


def _cut(model: SideNetPreTrainedModel, test: Rows, whole: ExitCosts) -> Version:
    """Return the exits before the last SideNet, which answers the rest; without SideNets, its blocks and head."""
    config = model.config
    alone = type(model).from_mainnet(
        model.mainnet,
        exit_layers=config.exit_layers[-1:],
        pooling=config.pooling[-1:],
        sidenet_hidden_size=config.sidenet_hidden_size,
        blocks=config.blocks,
    )
    alone.sidenets[0].load_state_dict(model.sidenets[-1].state_dict())
    plain = ExitCosts(**costs_of(alone, test))
    costs = ExitCosts(
        *_without_last(whole.params, whole.flops, whole.milliseconds),
        mainnet_params=plain.params[0],
        mainnet_flops=plain.flops[0],
        mainnet_milliseconds=plain.milliseconds[0],
        num_threads=whole.num_threads,
        device=whole.device,
    )
    return Version("cut", EAGER, CutChain(Stages(model)), None, Stages(alone), costs, True)


def _without_last(*values: Sequence[float]) -> list[Sequence[float]]:
    return [each[:-1] for each in values]
