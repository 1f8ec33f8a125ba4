# SPDX-License-Identifier: Apache-2.0
from transformers import DebertaV2Config, DebertaV2ForSequenceClassification

from hf_sidenet.models import DebertaV2WithSideNetForSequenceClassification

from .tester import TextTester


class TestDebertaV2(TextTester):
    model_class = DebertaV2WithSideNetForSequenceClassification
    mainnet_class = DebertaV2ForSequenceClassification
    # It projects relative positions in every block, once for all rows.
    not_reentrant = "the plain MainNet fails too, its blocks share the graph of its relative embeddings"

    def config(self):
        return DebertaV2Config(
            vocab_size=99,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=37,
            max_position_embeddings=64,
            num_labels=3,
            # As in the published checkpoints.
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=8,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
            position_biased_input=False,
            conv_kernel_size=3,
            type_vocab_size=0,
        )
