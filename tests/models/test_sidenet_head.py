# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from hf_sidenet.models.modalities import IMAGE, TEXT
from hf_sidenet.models.sidenet import SideNet, pool


def test_head_is_the_papers():
    head = SideNet(768, 32, 2)
    assert sum(p.numel() for p in head.parameters()) == 768 * 32 + 32 + 2 * 32 + 32 * 2 + 2
    head.eval()
    x = torch.randn(4, 768)
    by_hand = nn.functional.linear(
        torch.relu(head.dense(x) / (1 + head.norm.eps) ** 0.5), head.out_proj.weight, head.out_proj.bias
    )
    torch.testing.assert_close(head(x), by_hand)


def test_a_training_batch_of_one_row():
    head = SideNet(8, 4, 3).train()
    mean = head.norm.running_mean.clone()
    head(torch.randn(1, 8)).sum().backward()
    assert head.dense.weight.grad is not None
    assert torch.equal(head.norm.running_mean, mean)
    head(torch.randn(2, 8))
    assert not torch.equal(head.norm.running_mean, mean)


def test_pooling_by_hand():
    tokens = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    mask = torch.tensor([[1, 1, 0]])
    assert pool(tokens, "mean", mask).tolist() == [[2.0, 3.0]]
    assert pool(tokens, "auto", mask).tolist() == [[2.0, 3.0]]
    assert pool(tokens, "cls").tolist() == [[1.0, 2.0]]
    assert pool(tokens, "flatten").shape == (1, 6)
    assert pool(tokens, "mean", torch.zeros(1, 3)).tolist() == [[0.0, 0.0]]
    tokens[0, 2] = float("nan")
    assert pool(tokens, "mean", mask).tolist() == [[2.0, 3.0]]
    image = torch.arange(8.0).view(1, 2, 2, 2)
    assert pool(image, "gap").tolist() == pool(image, "auto").tolist() == [[1.5, 5.5]]


def test_mean_of_many_half_precision_tokens():
    tokens = torch.full((1, 4000, 1), 30.0, dtype=torch.float16)
    assert pool(tokens, "mean", torch.ones(1, 4000)).item() == 30.0


@pytest.mark.parametrize(
    ("shape", "pooling", "modality", "size"),
    [([384], "auto", TEXT, 384), ([64, 8, 8], "gap", IMAGE, 64), ([64, 8, 8], "flatten", IMAGE, 4096),
     ([17, 32], "cls", IMAGE, 32), ([17, 32], "flatten", IMAGE, 544)],
)  # fmt: skip
def test_pooled_size(shape, pooling, modality, size):
    assert modality.pooled_size(shape, pooling) == size


@pytest.mark.parametrize(
    ("shape", "pooling", "modality", "message"),
    [
        ([384], "flatten", TEXT, "texts differ"),
        ([384], "gap", TEXT, "does not fit a sequence of tokens .* use 'mean' or 'cls'"),
        ([64, 8, 8], "cls", IMAGE, "does not fit a feature map of shape .* use 'gap'"),
    ],
)
def test_pooling_that_does_not_fit(shape, pooling, modality, message):
    with pytest.raises(ValueError, match=message):
        modality.pooled_size(shape, pooling)
