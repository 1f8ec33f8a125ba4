# SPDX-License-Identifier: Apache-2.0
"""Training in lower precision stays close to float32, and the weights stay float32."""

import pytest
import torch

from ..distributed import cases, loop


CLOSE = {"atol": 0.02, "rtol": 0.02}
# Small: this compares precisions, not where two runs go that rounding has parted.
LEARNING_RATE = 1e-4


def assert_close_but_lower(losses, expected, model):
    torch.testing.assert_close(losses, expected, **CLOSE)
    assert not torch.equal(losses, expected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.medium
@pytest.mark.parametrize("name", ["frozen", "joint", "distilled", "resnet-joint"])
def test_the_trainer_in_bf16(name, tmp_path):
    losses = []
    for bf16 in (False, True):
        trainer = cases.make_trainer(
            cases.build(name), name, cases.arguments(tmp_path, bf16=bf16, learning_rate=LEARNING_RATE)
        )
        trainer.train()
        losses.append(torch.tensor(cases.logged(trainer)))
    assert_close_but_lower(losses[1], losses[0], trainer.model)


@pytest.mark.parametrize("name", ["frozen", "joint"])
def test_a_plain_loop_in_bf16(name):
    data = cases.rows(name, 40)
    _, _, expected = loop.train(cases.build(name), data, learning_rate=LEARNING_RATE)
    accelerator, model, losses = loop.train(
        cases.build(name), data, mixed_precision="bf16", learning_rate=LEARNING_RATE
    )
    assert_close_but_lower(losses, expected, model)
    answers = loop.evaluate(accelerator, model, data, 1.0)
    assert answers["exit_logits"].isfinite().all()


@pytest.mark.parametrize("name", ["frozen", "joint"])
def test_fp16_autocast(name):
    # Accelerate leaves fp16 out on the CPU; torch has it.
    losses = []
    for enabled in (False, True):
        model = cases.build(name).train()
        learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.SGD(learning, lr=LEARNING_RATE)
        scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
        seen = []
        for start in range(0, 16, cases.BATCH):
            batch = torch.utils.data.default_collate(cases.rows(name, 40)[start : start + cases.BATCH])
            with torch.autocast("cpu", torch.float16, enabled=enabled):
                output = model(**batch)
            assert output.exit_logits.dtype == (torch.float16 if enabled else torch.float32)
            scaler.scale(output.loss).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            seen.append(output.loss.detach())
        losses.append(torch.stack(seen))
    assert_close_but_lower(losses[1], losses[0], model)
