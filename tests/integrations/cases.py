# SPDX-License-Identifier: Apache-2.0
"""What the tests beside other libraries have in common."""

from contextlib import contextmanager

import torch
from transformers import Trainer, TrainingArguments

from ..models.naive import blocks_of


def labeled(inputs, num_labels=3):
    """Single rows with labels, for a `Trainer`."""
    count = len(next(iter(inputs.values())))
    return [
        {**{name: x[i] for name, x in inputs.items()}, "labels": torch.tensor(i % num_labels)} for i in range(count)
    ]


def trainer_of(model, folder, rows, **kwargs):
    """A stock `Trainer` that trains and evaluates on the same few rows."""
    fields = {"num_train_epochs": 2, "learning_rate": 1e-2, "logging_steps": 1, "report_to": [], "use_cpu": True}
    for name in list(kwargs):
        if name in TrainingArguments.__dataclass_fields__:
            fields[name] = kwargs.pop(name)
    arguments = TrainingArguments(
        folder, per_device_train_batch_size=8, disable_tqdm=True, save_strategy="no", **fields
    )
    return Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, **kwargs)


@contextmanager
def rows_per_block(model):
    """A list that gets, for every call, how many rows each block of the MainNet ran for."""
    blocks = blocks_of(model)
    calls = [[] for _ in blocks]
    handles = [
        block.register_forward_hook(lambda _, __, out, seen=seen: seen.append(_num_rows(out)))
        for block, seen in zip(blocks, calls, strict=True)
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def every_exit_of(model, inputs):
    """Logits of all exits, with exits off."""
    return model(**inputs, thresholds=1.0).exit_logits


@torch.no_grad()
def check_rows_leave(model, sidenet_model, inputs, thresholds, atol=0.0):
    """Some rows leave at the first exit, some do not; later blocks run without them; answers are the exits' own."""
    full = every_exit_of(model, inputs)
    with rows_per_block(sidenet_model) as calls:
        out = model(**inputs, thresholds=thresholds)
    count = len(out.logits)
    stayed = [int((out.exit_index > i).sum()) for i in range(len(sidenet_model.config.exit_layers))]
    assert 0 < stayed[0] < count
    start, expected = 0, []
    for layer, rows in zip([*sidenet_model.config.exit_layers, len(calls)], [count, *stayed], strict=True):
        expected += [[rows] if rows else []] * (layer - start)
        start = layer
    # The rows of the last block are back in their places when a hook on it sees them.
    assert calls[:-1] == expected[:-1]
    torch.testing.assert_close(out.logits, full[torch.arange(count), out.exit_index], rtol=0, atol=atol)
    return out


def middle_threshold(model, inputs):
    """θ that about half of these rows pass at the first exit, and nobody's confidence."""
    sure = every_exit_of(model, inputs)[:, 0].softmax(-1).amax(-1).sort().values
    middle = len(sure) // 2
    return sure[middle - 1 : middle + 1].mean().item()


def _num_rows(output):
    return len(output[0] if isinstance(output, tuple) else output)
