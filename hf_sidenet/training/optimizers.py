# SPDX-License-Identifier: Apache-2.0
"""Helpers for the stock `Trainer`: a separate learning rate for SideNets, and equal BatchNorm statistics on all ranks.

SideNets start from random weights, unlike the pretrained MainNet.
"""

from typing import Any, cast

import torch
from torch import nn
from transformers import TrainerCallback, TrainingArguments

from ..models.errors import ArgumentError


def parameter_groups(
    model: nn.Module, *, learning_rate: float, sidenet_learning_rate: float, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Make parameter groups for any `torch.optim.Optimizer`: MainNet and SideNets, each with and without weight decay.

    Parameters with one axis (biases, norms) have no weight decay.

    Args:
        model ([`SideNetPreTrainedModel`]): the model; frozen parameters are left out.
        learning_rate (`float`): learning rate of the MainNet.
        sidenet_learning_rate (`float`): learning rate of the SideNets.
        weight_decay (`float`, *optional*, defaults to 0.0): weight decay of both.

    Raises:
        ValueError: a learning rate is ≤ 0, the weight decay is negative, or all parameters are frozen.
    """
    for name, value in (("learning_rate", learning_rate), ("sidenet_learning_rate", sidenet_learning_rate)):
        if not value > 0:
            raise ArgumentError(name, "must be > 0", value)
    if not weight_decay >= 0:
        raise ArgumentError("weight_decay", "must be ≥ 0", weight_decay)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("sidenets."), parameter.dim() > 1), []).append(parameter)
    if not groups:
        raise ArgumentError("model", "must have trainable parameters (`requires_grad`), but has none")
    return [
        {
            "params": parameters,
            "lr": sidenet_learning_rate if is_sidenet else learning_rate,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for (is_sidenet, decays), parameters in groups.items()
    ]


def trainer_optimizer(
    model: nn.Module, args: TrainingArguments, sidenet_learning_rate: float | None
) -> tuple[type, dict[str, Any]] | None:
    """Return `optimizer_cls_and_kwargs` for the stock `Trainer`: the optimizer of `args.optim` with these groups.

    Args:
        model ([`SideNetPreTrainedModel`]): the model to train.
        args (`TrainingArguments`): training arguments; `learning_rate` applies to the MainNet.
        sidenet_learning_rate (`float`, *optional*): learning rate of the SideNets; `None` for the `Trainer`'s default.

    Raises:
        ValueError: FSDP or DeepSpeed is on, which shard the parameters after the groups are made.
    """
    if sidenet_learning_rate is None:
        return None
    if args.fsdp or args.deepspeed:
        raise ArgumentError(
            "sidenet_learning_rate",
            "must be None with FSDP or DeepSpeed, which shard the parameters after the groups are made",
            sidenet_learning_rate,
        )
    groups = parameter_groups(
        model,
        learning_rate=args.learning_rate,
        sidenet_learning_rate=sidenet_learning_rate,
        weight_decay=args.weight_decay,
    )
    # Imported here because it takes a second.
    from transformers import Trainer

    optimizer_class, kwargs = Trainer.get_optimizer_cls_and_kwargs(args)
    return optimizer_class, {**kwargs, "params": groups}


class SameStatisticsCallback(TrainerCallback):
    """Callback that copies rank 0's buffers, including BatchNorm statistics, to every rank after each step.

    For DDP and FSDP. DDP copies them before each training forward, but not for the `Trainer`'s evaluation, and FSDP
    never does: without this callback the other ranks evaluate a slightly different model from the saved one. Does
    nothing with one process.
    """

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # The Trainer always passes it.
            for buffer in cast(nn.Module, model).buffers():
                torch.distributed.broadcast(buffer, 0)
