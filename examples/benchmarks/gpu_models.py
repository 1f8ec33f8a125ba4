# SPDX-License-Identifier: Apache-2.0
"""The models for gpu.py: full size with random weights, and rows of which a given share exits early."""

from dataclasses import dataclass
from math import floor

import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    BertConfig,
    PretrainedConfig,
    PreTrainedModel,
    ResNetConfig,
)

from hf_sidenet import SideNetForImageClassification, SideNetForSequenceClassification
from hf_sidenet.inference.rows import Row


LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
TINY_BERT = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
TINY_RESNET = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 24], "depths": [1, 1, 1, 1], "layer_type": "basic"}
# θ of a row that always exits, and of one that never does although the check runs.
LEAVES, STAYS = 0.0, 1 - 1e-6
DIFFERENT_INPUTS = 64


@dataclass(frozen=True)
class Shape:
    """A model and its inputs.

    Args:
        config (`PretrainedConfig`): of the MainNet.
        exit_layer (`int`): blocks before the SideNet, as in the paper (Morisot, arXiv 2007.13512).
        length (`int`, *optional*): tokens of a text.
        pixels (`int`, *optional*): height and width of an image.
    """

    config: PretrainedConfig
    exit_layer: int
    length: int | None = None
    pixels: int | None = None

    def build(self, dtype: torch.dtype, device: str) -> PreTrainedModel:
        """Build the MainNet with its SideNet, in evaluation mode."""
        torch.manual_seed(0)
        auto_class, model_class, options = AutoModelForSequenceClassification, SideNetForSequenceClassification, {}
        if self.pixels is not None:
            auto_class, model_class = AutoModelForImageClassification, SideNetForImageClassification
            options = {"input_size": [3, self.pixels, self.pixels]}
        with torch.device(device):
            mainnet = auto_class.from_config(self.config)
        if self.pixels is not None:
            _settle(mainnet, torch.randn(8, 3, self.pixels, self.pixels, device=device))
        model = model_class.from_mainnet(mainnet.eval(), exit_layers=[self.exit_layer], **options)
        return model.to(device, dtype).eval()

    def rows(self, count: int, share: float, dtype: torch.dtype) -> list[Row]:
        """Make rows of which exactly this share exits early, evenly mixed: each has a θ, whatever the weights."""
        generator = torch.Generator().manual_seed(0)
        inputs = [self._inputs(generator, dtype) for _ in range(min(count, DIFFERENT_INPUTS))]
        thresholds = {True: (LEAVES,), False: (STAYS,)}
        return [
            Row(i, inputs[i % len(inputs)], self.length or 0, thresholds[floor((i + 1) * share) > floor(i * share)])
            for i in range(count)
        ]

    def _inputs(self, generator: torch.Generator, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        if self.pixels is not None:
            return {"pixel_values": torch.randn(3, self.pixels, self.pixels, generator=generator).to(dtype)}
        ids = torch.randint(3, self.config.vocab_size, (self.length,), generator=generator)
        return {"attention_mask": torch.ones_like(ids), "input_ids": ids}


SHAPES = {
    "bert-base": Shape(BertConfig(), 4, length=128),
    "bert-large": Shape(BertConfig(**LARGE), 8, length=128),
    "resnet-50": Shape(ResNetConfig(num_labels=1000, depths=[3, 4, 6, 3]), 1, pixels=224),
    "resnet-152": Shape(ResNetConfig(num_labels=1000, depths=[3, 8, 36, 3]), 1, pixels=224),
}
# To try the script without a GPU.
TINY_SHAPES = {
    "tiny-bert": Shape(BertConfig(vocab_size=99, **TINY_BERT), 2, length=16),
    "tiny-resnet": Shape(ResNetConfig(num_labels=5, **TINY_RESNET), 1, pixels=32),
}


@torch.no_grad()
def _settle(mainnet: PreTrainedModel, pixels: torch.Tensor) -> None:
    """Compute BatchNorm statistics on real features: without them, 50 random layers overflow half precision."""
    norms = [module for module in mainnet.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    mainnet.train()(pixel_values=pixels)
