# SPDX-License-Identifier: Apache-2.0
"""Tiny checkpoints on disk, with rows at every exit."""

import torch
from transformers import AutoTokenizer, ConvNextImageProcessor

from hf_sidenet.models import BertWithSideNetForSequenceClassification
from hf_sidenet.models.tasks import SINGLE_LABEL
from tests.examples.commands import minilm, sentences
from tests.models.naive import spread_out
from tests.models.tiny import bert, images, resnet_with_sidenet


NAMES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


def save_text_checkpoint(folder, exit_layers=(1, 3), **kwargs):
    """A BERT with SideNets and its tokenizer."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    mainnet = bert(vocab_size=len(tokenizer), num_labels=2, **NAMES)
    model = BertWithSideNetForSequenceClassification.from_mainnet(mainnet, exit_layers=list(exit_layers), **kwargs)
    texts = [text for text, _ in sentences(60)]
    _save(spread_out(model, tokenizer(texts, return_tensors="pt", padding=True)), tokenizer, texts, folder)
    return folder


def _save(model, processor, rows, folder):
    inputs = processor(rows, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = model(**inputs, thresholds=1.0).exit_logits
    # Half of the rows that reach an exit are answered there, and no confidence equals θ.
    sure = SINGLE_LABEL.confidence(logits)[:, :-1].sort(0).values
    middle = len(sure) // 2
    model.config.thresholds = ((sure[middle - 1] + sure[middle]) / 2).tolist()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def save_image_checkpoint(folder):
    """A ResNet with one SideNet and its image processor."""
    torch.manual_seed(0)
    model = resnet_with_sidenet(thresholds=0.4)
    with torch.no_grad():
        sure = SINGLE_LABEL.confidence(model(**images(40), thresholds=1.0).exit_logits[:, 0]).sort().values
    model.config.thresholds = [sure[19:21].mean().item()]
    model.save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=1.0).save_pretrained(folder)
    return folder


def save_plain(folder, words=(), **kwargs):
    """A smaller classifier of the same texts, whose tokenizer may know other words too."""
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    fields = {"vocab_size": len(tokenizer), "num_labels": 2, "num_hidden_layers": 1, **NAMES, **kwargs}
    bert(**fields).save_pretrained(folder)
    tokenizer.add_tokens(list(words))
    tokenizer.save_pretrained(folder)
    return folder
