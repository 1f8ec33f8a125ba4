# SPDX-License-Identifier: Apache-2.0
import torch
from transformers import LayoutLMConfig, LayoutLMForSequenceClassification

from hf_sidenet.models import SideNetForSequenceClassification

from .tester import TextTester


def boxes(mask, seed=0):
    """Boxes of the tokens on a page of 50 by 50; all zeros for padding."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, 50, (*mask.shape, 2, 2), generator=generator)
    return corners.sort(2).values.flatten(2) * mask.unsqueeze(-1)


class TestLayoutLM(TextTester):
    model_class = SideNetForSequenceClassification
    mainnet_class = LayoutLMForSequenceClassification

    def config(self):
        return LayoutLMConfig(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            max_2d_position_embeddings=50,
            # So that boxes matter as much as words do.
            initializer_range=0.2,
            num_labels=3,
        )

    def inputs(self, batch_size, seed=0):
        inputs = super().inputs(batch_size, seed)
        return {**inputs, "bbox": boxes(inputs["attention_mask"], seed)}

    def test_the_answers_depend_on_the_boxes(self):
        model, inputs = self.model(), self.inputs(4)
        with torch.no_grad():
            moved = model(**{**inputs, "bbox": boxes(inputs["attention_mask"], 1)}, thresholds=1.0)
            difference = moved.exit_logits - model(**inputs, thresholds=1.0).exit_logits
        assert difference.abs().amax((0, 2)).min() > 1e-2
