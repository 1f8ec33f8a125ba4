# SPDX-License-Identifier: Apache-2.0
"""A plain training loop with Accelerate, without the Trainer, as the documentation shows it."""

import torch
from accelerate import Accelerator, skip_first_batches
from accelerate.state import AcceleratorState

from . import cases


def train(model, data, *, accumulation=1, mixed_precision="no", learning_rate=0.05, on_step=None, resume_from=None):
    """One epoch in order. Returns `(accelerator, model, losses)`, a loss per batch, averaged over the processes.

    Args:
        on_step (`Callable[[int, Accelerator], None]`, *optional*): called with the number of batches done.
        resume_from (`tuple[str, int]`, *optional*): a folder of `save_state`, and the batches done before.
    """
    AcceleratorState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulation, mixed_precision=mixed_precision)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=learning_rate, momentum=0.9)
    # Its own generator: starting to read again must not draw from the one that dropout draws from.
    loader = torch.utils.data.DataLoader(data, batch_size=cases.BATCH, generator=torch.Generator().manual_seed(0))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    done, losses = 0, []
    if resume_from is not None:
        folder, done = resume_from
        accelerator.load_state(folder)
        loader = skip_first_batches(loader, done)
    model.train()
    for batch in loader:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        losses.append(accelerator.gather(loss.detach()).mean())
        done += 1
        if on_step is not None:
            on_step(done, accelerator)
    return accelerator, model, torch.stack(losses)


@torch.no_grad()
def evaluate(accelerator, model, data, thresholds):
    """Answers to every row, once and in order, whatever the number of processes."""
    loader = accelerator.prepare(torch.utils.data.DataLoader(data, batch_size=cases.BATCH))
    model.eval()
    gathered = []
    for batch in loader:
        output = model(**batch, thresholds=thresholds)
        answers = {name: output[name] for name in ("logits", "exit_index", "exit_logits")}
        gathered.append(accelerator.gather_for_metrics({**answers, "labels": batch["labels"]}))
    return {name: torch.cat([answers[name] for answers in gathered]) for name in gathered[0]}
