# SPDX-License-Identifier: Apache-2.0
"""The same answers on a GPU: with exits off, row by row, with θ on the device, compiled, and from several threads."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.models.naive import TIE, without_hooks

from .cases import DTYPES, TOLERANCE


pytestmark = pytest.mark.gpu


def confidences(output):
    """(batch, num_sidenets)."""
    return output.exit_logits[:, :-1].float().softmax(-1).amax(-1)


@torch.no_grad()
def middle(model, inputs):
    """θ of each SideNet that about half of the rows pass."""
    return confidences(model(**inputs, thresholds=1.0)).quantile(0.5, dim=0).tolist()


def stacked(outputs):
    """One output of outputs for one row each."""
    names = ("logits", "exit_index", "exit_logits")
    return type(outputs[0])(**{name: torch.cat([output[name] for output in outputs]) for name in names})


def difference(left, right):
    """The largest difference, as a fraction of the largest |logit|."""
    if left.numel() == 0:
        return 0.0
    return ((left.float() - right.float()).abs().max() / right.float().abs().max()).item()


def compare(output, expected, thresholds, dtype):
    """The largest difference and the share of other decisions. In fp32, rows within rounding of θ are left out."""
    close = (confidences(expected) - torch.tensor(thresholds, device=expected.logits.device)).abs() < TIE
    sure = ~close.any(1) if dtype == "fp32" else torch.ones_like(close[:, 0])
    same = (output.exit_index == expected.exit_index)[sure]
    value = difference(output.logits[sure][same], expected.logits[sure][same])
    return value, 1 - same.float().mean().item()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exits_off_is_the_plain_mainnet_bit_for_bit(case, dtype, device, record):
    model, inputs = case.on(device, dtype)
    with torch.no_grad():
        expected = without_hooks(model.mainnet)(**inputs).logits
        output = model(**inputs, thresholds=1.0)
    equal = torch.equal(output.logits, expected)
    value = "bit-equal" if equal else f"differs by {difference(output.logits, expected):.1e}"
    record("exits off is the plain MainNet", f"{case.name}, {dtype}", value)
    assert expected.isfinite().all()
    assert equal


@pytest.mark.parametrize("dtype", DTYPES)
def test_some_rows_leaving_equals_rows_alone(case, dtype, device, record):
    model, inputs = case.on(device, dtype)
    thresholds = middle(model, inputs)
    rows = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(16)]
    with torch.no_grad():
        together = model(**inputs, thresholds=thresholds)
        alone = stacked([model(**row, thresholds=thresholds) for row in rows])
        # What other kernels for other batch sizes do by themselves, to read the difference by.
        off = model(**inputs, thresholds=1.0), stacked([model(**row, thresholds=1.0) for row in rows])
    largest, others = compare(together, alone, thresholds, dtype)
    unsplit = difference(*(output.exit_logits for output in off))
    value = f"{largest:.1e} of max |logit| (exits off: {unsplit:.1e}), {others:.0%} other decisions"
    record("θ in the middle equals rows alone", f"{case.name}, {dtype}", value)
    assert 0 < (together.exit_index < 2).float().mean() < 1
    assert largest <= TOLERANCE[dtype]
    assert others <= (0 if dtype == "fp32" else 0.2)


def test_a_theta_for_each_row_on_the_device(case, device, record):
    model, inputs = case.on(device)
    first, second = middle(model, inputs)
    choices = [[0.0, 0.0], [first, second], [1.0, 0.0], [1.0, second]]
    thresholds = torch.tensor([choices[i % 4] for i in range(16)])
    with torch.no_grad():
        from_host = model(**inputs, thresholds=thresholds)
        output = model(**inputs, thresholds=thresholds.to(device))
        rows = [{name: value[i : i + 1] for name, value in inputs.items()} for i in range(16)]
        alone = stacked([model(**row, thresholds=choices[i % 4]) for i, row in enumerate(rows)])
    equal = torch.equal(output.logits, from_host.logits) and torch.equal(output.exit_index, from_host.exit_index)
    largest, others = compare(output, alone, thresholds.tolist(), "fp32")
    value = f"{'bit-equal' if equal else 'differs'} to θ on the host; rows alone: {largest:.1e}, {others:.0%} other"
    record("a θ for each row, on the device", case.name, value)
    assert equal
    assert output.exit_index.device.type == device.type
    assert largest <= TOLERANCE["fp32"]
    assert others == 0


def test_compiled_equals_eager(case, device, record):
    torch._dynamo.reset()
    model, inputs = case.on(device)
    compiled = torch.compile(model)
    results = []
    with torch.no_grad():
        for thresholds in ([1.0, 1.0], middle(model, inputs), [0.0, 0.0]):
            expected = model(**inputs, thresholds=thresholds)
            results.append(compare(compiled(**inputs, thresholds=thresholds), expected, thresholds, "fp32"))
    largest, others = map(max, zip(*results, strict=True))
    record(
        "compiled (inductor) equals eager", case.name, f"{largest:.1e} of max |logit|, {others:.0%} other decisions"
    )
    assert largest <= TOLERANCE["fp32"]
    assert others == 0


def test_threads_with_different_thetas(case, device, record):
    model, inputs = case.on(device)
    choices = [[0.0, 0.0], [1.0, 1.0], middle(model, inputs), [1.0, 0.0]]
    with torch.no_grad():
        expected = [model(**inputs, thresholds=thresholds) for thresholds in choices]

    def work(i):
        with torch.no_grad():
            return compare(model(**inputs, thresholds=choices[i % 4]), expected[i % 4], choices[i % 4], "fp32")

    with ThreadPoolExecutor(4) as pool:
        largest, others = map(max, zip(*pool.map(work, range(32)), strict=True))
    record("4 threads with different θ", case.name, f"{largest:.1e} of max |logit|, {others:.0%} other decisions")
    assert largest <= TOLERANCE["fp32"]
    assert others == 0
