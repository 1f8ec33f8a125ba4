# SPDX-License-Identifier: Apache-2.0
"""One forward call of a MainNet with SideNets: inputs checked, rows routed, losses summed."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import torch
from transformers import PreTrainedModel
from transformers.utils import logging
from transformers.utils.generic import ModelOutput

from .configuration_sidenet import begins_at_input, chain_of
from .errors import ArgumentError, StopForward
from .exit_rule import Recording, Routing, chain_exits, check_thresholds, lets_rows_leave, stack_exits
from .gate import Run, has_sharded_parameters, run_mainnet
from .modeling_base import SideNetOutput, SideNetPreTrainedModel
from .row_inputs import NOT_ROWS, TOKEN_INPUTS
from .sidenet import SideNet, check_mainnet_logits, exit_loss, read_exit


logger = logging.get_logger(__name__)

# Tokenizer outputs that only some models take.
TOKENIZER_FIELDS = ("token_type_ids", "position_ids", "special_tokens_mask", "length")
EXTRA_FIELDS = {"output_hidden_states": "hidden_states", "output_attentions": "attentions"}


def classify(
    model: SideNetPreTrainedModel,
    inputs: dict[str, Any],
    *,
    labels: torch.Tensor | None,
    mainnet_logits: torch.Tensor | None,
    thresholds: float | Sequence[float] | torch.Tensor | None,
    extras: dict[str, bool | None],
    return_dict: bool | None,
) -> SideNetOutput | tuple:
    """Run the forward pass of any model class; their docstrings describe the arguments.

    Args:
        model (`SideNetPreTrainedModel`): the MainNet with its SideNets.
        inputs (`dict[str, Any]`): inputs of the MainNet; `None` values are left out.
        extras (`dict[str, bool]`): `output_hidden_states` and `output_attentions`; `None` for the config's value.
    """
    inputs = {name: value for name, value in inputs.items() if value is not None}
    asked = {name: getattr(model.config, name) if wanted is None else wanted for name, wanted in extras.items()}
    given_extras = {name: True for name, wanted in asked.items() if wanted}
    batch_size = _check_inputs(model, inputs)
    if "use_cache" in model.mainnet_inputs:
        # A decoder's cache would keep rows that exit, and a classifier never reads it.
        inputs["use_cache"] = False
    if labels is not None:
        model.task.check_labels(labels, batch_size, model.task.num_outputs(model.config))
    if mainnet_logits is not None:
        check_mainnet_logits(mainnet_logits, batch_size, model.task.num_outputs(model.config))
        if model.config.distillation_weight == 0:
            raise ArgumentError("mainnet_logits", "must be None without distillation (`distillation_weight` is 0)")
    given = model.config.thresholds if thresholds is None else thresholds
    taken = [
        # Before the MainNet runs, so that no exit waits for the copy.
        threshold.to(_device_of(inputs), non_blocking=True) if isinstance(threshold, torch.Tensor) else threshold
        for threshold in check_thresholds(given, len(model.sidenets), batch_size)
    ]
    if thresholds is None:
        _warn_if_uncalibrated(model, taken)
    if batch_size == 0:
        if has_sharded_parameters(model):
            raise ValueError("a batch must have rows while parameters are sharded: other ranks would wait; got none.")
        output = _answer_nobody(model, inputs, labels)
    elif model.training:
        output = _learn(model, inputs, labels, mainnet_logits, given_extras)
    else:
        output = _route(model, inputs, labels, mainnet_logits, taken, given_extras)
    return_dict = model.config.return_dict if return_dict is None else return_dict
    return output if return_dict else output.to_tuple()


def _learn(
    model: SideNetPreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor | None,
    teacher: torch.Tensor | None,
    extras: dict[str, bool],
) -> SideNetOutput:
    frozen = model.config.freeze_mainnet == "all"
    if model.config.calibration is not None and not torch.compiler.is_dynamo_compiling():
        # Even without an optimizer: every batch updates the SideNets' BatchNorm statistics.
        model.config.calibration = None
        logger.warning("Training changes the weights: dropping `config.calibration`, the evidence behind θ.")
    if frozen and torch.is_grad_enabled() and not torch.compiler.is_dynamo_compiling():
        _check_frozen(model.mainnet)
    stop = frozen and (model.config.distillation_weight == 0 or teacher is not None)
    if stop and extras:
        raise ValueError(
            f"`{next(iter(extras))}=True` is not available in training when a frozen MainNet stops after the last "
            "SideNet: call `model.eval()` first."
        )
    recording = Recording(model.config.exit_layers, stop)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        out = _run(model, recording.visit, inputs, extras)
    columns = [_answer(model, i, hidden, None, inputs) for i, hidden in enumerate(recording.hidden)]
    if labels is None and torch.is_grad_enabled() and not torch.compiler.is_dynamo_compiling():
        _warn_without_labels(model)
    mainnet_logits = torch.full_like(columns[0], torch.nan) if out is None else out.logits
    last = len(columns) - 1 if out is None else len(columns)
    answered = chain_exits([*columns, mainnet_logits], chain_of(model.config))
    return SideNetOutput(
        loss=_exit_loss(model, answered[:-1], None if out is None else mainnet_logits, labels, teacher),
        logits=answered[last],
        exit_index=torch.full(mainnet_logits.shape[:1], last, device=mainnet_logits.device),
        exit_logits=stack_exits(answered),
        **_extras_of(out, extras),
    )


def _route(
    model: SideNetPreTrainedModel,
    inputs: dict[str, Any],
    labels: torch.Tensor | None,
    teacher: torch.Tensor | None,
    thresholds: Sequence[float | torch.Tensor],
    extras: dict[str, bool],
) -> SideNetOutput:
    exits_on = any(map(lets_rows_leave, thresholds))
    if exits_on and extras:
        raise ValueError(
            f"`{next(iter(extras))}=True` needs exits off (`thresholds` ≥ 1), because rows that exit have no later "
            f"hidden states; got thresholds={thresholds}."
        )
    routing = Routing(
        model.config.exit_layers,
        lambda i, hidden, rows: _answer(model, i, hidden, rows, inputs),
        thresholds,
        model.config.temperatures,
        chain_of(model.config),
        model.task,
        keep_all_rows=exits_on and has_sharded_parameters(model),
    )
    out = _run(model, routing.visit, inputs, extras)
    logits, exit_index, exit_logits = routing.finish(None if out is None else out.logits)
    loss = None
    if labels is not None:
        if exits_on:
            loss = model.task.loss(logits, labels)
        else:
            assert out is not None  # The MainNet ran to its end.
            loss = _exit_loss(model, routing.columns, out.logits, labels, teacher)
    return SideNetOutput(
        loss=loss, logits=logits, exit_index=exit_index, exit_logits=exit_logits, **_extras_of(out, extras)
    )


def _run(model: SideNetPreTrainedModel, visit: Callable, inputs: dict[str, Any], extras: dict[str, bool]) -> Any:
    """Call the MainNet on the rows that stay before its first block; `None` when the forward stopped early."""
    if begins_at_input(model.config):
        name = model.modality.main_input(inputs)
        assert name is not None  # Checked before.
        batch_size = inputs[name].shape[0]
        try:
            keep = visit(0, inputs[name], None)
        except StopForward:
            return None
        if keep is not None:
            inputs = {name: _kept(name, value, keep, batch_size) for name, value in inputs.items()}
    return run_mainnet(model.mainnet, Run(visit), **inputs, **extras, return_dict=True)


def _kept(name: str, value: Any, keep: torch.Tensor, batch_size: int) -> Any:
    """Return an input for the rows that stay before the first block; one that all rows share stays as it is."""
    if not isinstance(value, torch.Tensor) or value.dim() < (2 if name in TOKEN_INPUTS else 1):
        return value
    if value.shape[0] == batch_size:
        return value.index_select(0, keep.to(value.device))
    if value.shape[0] != 1 and value.dim() > 1:
        raise ArgumentError(
            name,
            f"must have one entry per row, {batch_size}, or one for all rows, where rows exit before the first block",
            tuple(value.shape),
        )
    return value


def _answer(
    model: SideNetPreTrainedModel, index: int, hidden: torch.Tensor, rows: torch.Tensor | None, inputs: dict[str, Any]
) -> torch.Tensor:
    """Return one SideNet's logits for the remaining rows; at exit layer 0, these are all."""
    if index == 0 and begins_at_input(model.config):
        return model.sidenets[0](inputs)
    sidenet = cast(SideNet, model.sidenets[index])
    return read_exit(sidenet, model.config.pooling[index], hidden, inputs.get("attention_mask"), rows)


def _exit_loss(
    model: SideNetPreTrainedModel,
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
        task=model.task,
        alpha=model.config.alpha,
        distillation_weight=model.config.distillation_weight,
        distillation_temperature=model.config.distillation_temperature,
        teach_mainnet=model.config.freeze_mainnet != "all",
    )


def _answer_nobody(
    model: SideNetPreTrainedModel, inputs: dict[str, Any], labels: torch.Tensor | None
) -> SideNetOutput:
    logits = torch.zeros(0, model.task.num_outputs(model.config), dtype=model.dtype, device=_device_of(inputs))
    # Zero with zero gradients, so that a training loop can handle an empty shard.
    loss = logits.float().sum() + sum(0.0 * p.float().sum() for p in model.parameters() if p.requires_grad)
    return SideNetOutput(
        loss=None if labels is None else loss,
        logits=logits,
        exit_index=torch.zeros(0, dtype=torch.long, device=logits.device),
        exit_logits=logits.new_zeros(0, model.config.num_exits, logits.shape[1]),
    )


def check_names(model: SideNetPreTrainedModel, inputs: Iterable[str]) -> None:
    """Reject inputs that the MainNet does not take, and arguments of it that are not data of the rows.

    Raises:
        ValueError: there is one; the message names the first.
    """
    names = list(inputs)
    unknown = next((name for name in names if name not in model.mainnet_inputs), None)
    if unknown is None:
        for name in names:
            if name in NOT_ROWS:
                raise ArgumentError(name, "must not be given: it is no input of the rows that SideNets can work with")
        return
    advice = "remove it from the inputs"
    if unknown in TOKENIZER_FIELDS:
        advice = (
            "the tokenizer returns it for other models. Remove it from `tokenizer.model_input_names`, or from rows "
            "that are already tokenized"
        )
    raise ValueError(f"{type(model.mainnet).__name__} does not take `{unknown}`: {advice}.")


def _check_inputs(model: SideNetPreTrainedModel, inputs: dict[str, Any]) -> int:
    """Return the batch size; reject inputs that the MainNet's `**kwargs` might silently accept."""
    check_names(model, inputs)
    given = model.modality.main_input(inputs)
    if given is not None:
        return inputs[given].shape[0]
    names = " or ".join(f"`{name}`" for name in model.modality.main_inputs)
    raise ValueError(f"{type(model).__name__} needs {names}, got {sorted(inputs) or 'none'}.")


def _device_of(inputs: dict[str, Any]) -> torch.device:
    return next(value.device for value in inputs.values() if isinstance(value, torch.Tensor))


def _check_frozen(mainnet: PreTrainedModel) -> None:
    learning = next((name for name, parameter in mainnet.named_parameters() if parameter.requires_grad), None)
    if learning is not None:
        raise ValueError(
            f"`freeze_mainnet='all'` computes no gradients in the MainNet, but its parameter {learning!r} requires "
            "them. Call `model.set_freeze_mainnet('none')`, before adding any adapter."
        )


def _warn_without_labels(model: SideNetPreTrainedModel) -> None:
    if model.config.distillation_weight == 0:
        logger.warning_once(
            "Training without `labels`: the model computes no loss, and a loss computed from `logits` trains only one "
            "exit, as with Trainer's `label_smoothing_factor` and `compute_loss_func`. `exit_logits` has all exits."
        )


def _warn_if_uncalibrated(model: SideNetPreTrainedModel, thresholds: Sequence[float | torch.Tensor]) -> None:
    if model.training or torch.compiler.is_dynamo_compiling() or model.config.calibration is not None:
        return
    if not any(map(lets_rows_leave, thresholds)):
        logger.warning_once(
            "No row will exit early: every θ of this model is ≥ 1, the default until it is calibrated. Pass "
            "`thresholds=` or set `model.config.thresholds`."
        )


def _extras_of(out: ModelOutput | None, extras: dict[str, bool]) -> dict[str, Any]:
    return {EXTRA_FIELDS[name]: getattr(out, EXTRA_FIELDS[name], None) for name in extras}
