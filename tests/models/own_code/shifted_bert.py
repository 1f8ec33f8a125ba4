# SPDX-License-Identifier: Apache-2.0
from transformers import BertForSequenceClassification


class ShiftedBert(BertForSequenceClassification):
    def forward(self, *args, **kwargs):
        out = super().forward(*args, **kwargs)
        out.logits = out.logits + 0.5
        return out
