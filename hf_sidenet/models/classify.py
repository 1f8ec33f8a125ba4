# SPDX-License-Identifier: Apache-2.0
"""One forward call: check the arguments, run the MainNet under the gates, put the answers and the loss together."""

from collections.abc import Iterable
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, logging

from .exit_rule import check_thresholds, lets_rows_leave
from .gate import Run, run_mainnet
from .losses import check_labels, check_mainnet_logits, cross_entropy, exit_loss
from .outputs import SideNetOutput
from .routing import Recording, Routing, stack_exits
from .sharding import has_sharded_parameters
from .sidenet_head import read_exit


logger = logging.get_logger(__name__)

# What tokenizers make for some models and not for others.
TOKENIZER_FIELDS = ("token_type_ids", "position_ids", "special_tokens_mask", "length")
EXTRA_FIELDS = {"output_hidden_states": "hidden_states", "output_attentions": "attentions"}


def classify(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    *,
    labels: torch.Tensor | None,
    mainnet_logits: torch.Tensor | None,
    thresholds: float | list[float] | torch.Tensor | None,
    extras: dict[str, bool | None],
    return_dict: bool | None,
) -> SideNetOutput | tuple:
    """The forward of every model class; their docstrings describe the arguments.

    Args:
        model (`SideNetPreTrainedModel`): the MainNet with its SideNets.
        inputs (`dict[str, Any]`): the MainNet's inputs; `None` values are left out.
        extras (`dict[str, bool]`): `output_hidden_states` and `output_attentions`; `None` for what the config says.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    extras = {name: getattr(model.config, name) if wanted is None else wanted for name, wanted in extras.items()}
    extras = {name: True for name, wanted in extras.items() if wanted}
    batch_size = _check_inputs(model, inputs)
    if "use_cache" in model.mainnet_inputs:
        # A decoder's cache would hold rows that leave, and a classifier never reads it.
        inputs["use_cache"] = False
    if labels is not None:
        check_labels(labels, batch_size, model.config.num_labels)
    if mainnet_logits is not None:
        check_mainnet_logits(mainnet_logits, batch_size, model.config.num_labels)
        if model.config.distillation_weight == 0:
            raise ValueError("`mainnet_logits` serve distillation only, and `distillation_weight` is 0.")
    given = model.config.thresholds if thresholds is None else thresholds
    given = [
        # Before the MainNet is called, so that no exit waits for the copy.
        threshold.to(_device_of(inputs), non_blocking=True) if isinstance(threshold, torch.Tensor) else threshold
        for threshold in check_thresholds(given, len(model.sidenets), batch_size)
    ]
    if thresholds is None:
        _warn_if_uncalibrated(model, given)
    if batch_size == 0:
        if has_sharded_parameters(model):
            raise ValueError("a batch must have rows while parameters are sharded: other ranks would wait; got none.")
        output = _answer_nobody(model, inputs, labels)
    elif model.training:
        output = _learn(model, inputs, labels, mainnet_logits, extras)
    else:
        output = _route(model, inputs, labels, mainnet_logits, given, extras)
    return_dict = model.config.return_dict if return_dict is None else return_dict
    return output if return_dict else output.to_tuple()


def _learn(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor | None,
    teacher: torch.Tensor | None,
    extras: dict[str, bool],
) -> SideNetOutput:
    frozen = model.config.freeze_mainnet == "all"
    if model.config.calibration is not None and not torch.compiler.is_dynamo_compiling():
        # Even without an optimizer: the SideNets' BatchNorm moves with every batch.
        model.config.calibration = None
        logger.warning("In training the weights change, and `config.calibration`, the evidence behind θ, is dropped.")
    if frozen and torch.is_grad_enabled() and not torch.compiler.is_dynamo_compiling():
        _check_frozen(model.mainnet)
    stop = frozen and (model.config.distillation_weight == 0 or teacher is not None)
    if stop and extras:
        raise ValueError(
            f"`{next(iter(extras))}=True` must not be given while a frozen MainNet stops after the last SideNet in "
            "training: call `model.eval()` first."
        )
    recording = Recording(model.config.exit_layers, stop)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        out = run_mainnet(model.mainnet, Run(recording.visit), **inputs, **extras, return_dict=True)
    columns = [_answer(model, i, hidden, None, inputs) for i, hidden in enumerate(recording.hidden)]
    if labels is None and torch.is_grad_enabled() and not torch.compiler.is_dynamo_compiling():
        _warn_without_labels(model)
    mainnet_logits = torch.full_like(columns[0], torch.nan) if out is None else out.logits
    last = len(columns) - 1 if out is None else len(columns)
    return SideNetOutput(
        loss=_exit_loss(model, columns, None if out is None else mainnet_logits, labels, teacher),
        logits=[*columns, mainnet_logits][last],
        exit_index=torch.full(mainnet_logits.shape[:1], last, device=mainnet_logits.device),
        exit_logits=stack_exits([*columns, mainnet_logits]),
        **_extras_of(out, extras),
    )


def _route(
    model: PreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor | None,
    teacher: torch.Tensor | None,
    thresholds: list[float | torch.Tensor],
    extras: dict[str, bool],
) -> SideNetOutput:
    exits_on = any(map(lets_rows_leave, thresholds))
    if exits_on and extras:
        raise ValueError(
            f"`{next(iter(extras))}=True` needs exits off (`thresholds` ≥ 1), because rows that leave have no later "
            f"hidden states; got thresholds={thresholds}."
        )
    routing = Routing(
        model.config.exit_layers,
        lambda i, hidden, rows: _answer(model, i, hidden, rows, inputs),
        thresholds,
        model.config.temperatures,
        keep_all_rows=exits_on and has_sharded_parameters(model),
    )
    out = run_mainnet(model.mainnet, Run(routing.visit), **inputs, **extras, return_dict=True)
    logits, exit_index, exit_logits = routing.finish(None if out is None else out.logits)
    loss = None
    if labels is not None:
        if exits_on:
            loss = cross_entropy(logits, labels)
        else:
            loss = _exit_loss(model, routing.columns, logits, labels, teacher)
    return SideNetOutput(
        loss=loss, logits=logits, exit_index=exit_index, exit_logits=exit_logits, **_extras_of(out, extras)
    )


def _answer(
    model: PreTrainedModel, index: int, hidden: torch.Tensor, rows: torch.Tensor | None, inputs: dict[str, Any]
) -> torch.Tensor:
    """Logits of one SideNet for the rows inside."""
    return read_exit(model.sidenets[index], model.config.pooling[index], hidden, inputs.get("attention_mask"), rows)


def _exit_loss(
    model: PreTrainedModel,
    columns: list[torch.Tensor],
    mainnet_logits: torch.Tensor | None,
    labels: torch.Tensor | None,
    teacher: torch.Tensor | None,
) -> torch.Tensor | None:
    return exit_loss(
        columns,
        mainnet_logits,
        labels,
        teacher,
        alpha=model.config.alpha,
        distillation_weight=model.config.distillation_weight,
        distillation_temperature=model.config.distillation_temperature,
        teach_mainnet=model.config.freeze_mainnet != "all",
    )


def _answer_nobody(model: PreTrainedModel, inputs: dict[str, Any], labels: torch.Tensor | None) -> SideNetOutput:
    logits = torch.zeros(0, model.config.num_labels, dtype=model.dtype, device=_device_of(inputs))
    # Zero, and with zero gradients, so that a training loop may meet an empty shard.
    loss = logits.float().sum() + sum(0.0 * p.float().sum() for p in model.parameters() if p.requires_grad)
    return SideNetOutput(
        loss=None if labels is None else loss,
        logits=logits,
        exit_index=torch.zeros(0, dtype=torch.long, device=logits.device),
        exit_logits=logits.new_zeros(0, model.config.num_exits, logits.shape[1]),
    )


def check_names(model: PreTrainedModel, inputs: Iterable[str]) -> None:
    """Refuse inputs that the MainNet does not take.

    Raises:
        ValueError: names the first of them.
    """
    unknown = next((name for name in inputs if name not in model.mainnet_inputs), None)
    if unknown is None:
        return
    advice = "remove it from the inputs"
    if unknown in TOKENIZER_FIELDS:
        advice = (
            "the tokenizer makes it for another kind of model. Take it out of `tokenizer.model_input_names`, or out "
            "of rows that were tokenized already"
        )
    raise ValueError(f"{type(model.mainnet).__name__} takes no `{unknown}`: {advice}.")


def _check_inputs(model: PreTrainedModel, inputs: dict[str, Any]) -> int:
    """Batch size, after refusing inputs that the MainNet's forward might swallow in its `**kwargs`."""
    check_names(model, inputs)
    for name in ("input_ids", "inputs_embeds", "pixel_values"):
        if name in inputs:
            return inputs[name].shape[0]
    names = "`input_ids` or `inputs_embeds`" if model.is_text else "`pixel_values`"
    raise ValueError(f"{type(model).__name__} needs {names}, got {sorted(inputs) or 'none'}.")


def _device_of(inputs: dict[str, Any]) -> torch.device:
    return next(value.device for value in inputs.values() if isinstance(value, torch.Tensor))


def _check_frozen(mainnet: PreTrainedModel) -> None:
    learning = next((name for name, parameter in mainnet.named_parameters() if parameter.requires_grad), None)
    if learning is not None:
        raise ValueError(
            f"`freeze_mainnet='all'` computes no gradients in the MainNet, but its parameter {learning!r} requires "
            "them. Call `model.set_freeze_mainnet('none')`, and where an adapter is added, before that."
        )


def _warn_without_labels(model: PreTrainedModel) -> None:
    if model.config.distillation_weight == 0:
        logger.warning_once(
            "Training without `labels`: no loss is computed here, and a loss made from `logits` reaches one exit "
            "only, as with Trainer's `label_smoothing_factor` and `compute_loss_func`. `exit_logits` has all exits."
        )


def _warn_if_uncalibrated(model: PreTrainedModel, thresholds: list[float | torch.Tensor]) -> None:
    if model.training or torch.compiler.is_dynamo_compiling() or model.config.calibration is not None:
        return
    if not any(map(lets_rows_leave, thresholds)):
        logger.warning_once(
            "No row will leave early: every θ of this model is ≥ 1, the value it has until it is calibrated. Pass "
            "`thresholds=` or set `model.config.thresholds`."
        )


def _extras_of(out: ModelOutput | None, extras: dict[str, bool]) -> dict[str, Any]:
    return {EXTRA_FIELDS[name]: getattr(out, EXTRA_FIELDS[name], None) for name in extras}
