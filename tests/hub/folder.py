# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder as it is shared: a tiny BERT with SideNets, a tokenizer, a report and a card with results."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from hf_sidenet.calibration import paired
from hf_sidenet.inference.certificate import certificate

from ..models import tiny


# Realistic length.
TOKEN = "hf_" + "aB3" * 12
WORDS = ("a", "good", "bad", "film", "one", "very", "not", "so")
CARD = """---
library_name: transformers
license: apache-2.0
tags:
- sidenet
model-index:
- name: mine
  results:
  - task:
      type: text-classification
    dataset:
      name: 80 test rows
      type: custom
    metrics:
    - type: accuracy
      value: 0.9
---

# Mine

![accuracy against cost](figures/accuracy_cost.png)
"""
RISK = {"estimate": 0.00125, "p_value": paired(1, 0, 800, 0.05), "num_rows": 800, "num_bad": 1, "num_helped": 0}
# As `attach` writes it; the counts are made up.
EVIDENCE = {
    "method": "Learn-then-Test",
    "targets": [{"target": "accuracy_drop<=0.05", **RISK}, {"target": "flops<=0.9"}],
    "confidence_level": 0.95,
    "level_per_target": 0.05,
    "test": "paired",
    "num_design_rows": 40,
    "num_certification_rows": 800,
    "num_points_tested": 12,
    "certification": {
        "accuracy": 0.9,
        "shares": [0.3, 0.3, 0.4],
        "params": 0.5,
        "flops": 0.6,
        "milliseconds": 0.7,
    },
    "reference": "given",
    "reference_precision": "float32",
    "seed": 0,
    "certification_fraction": 0.75,
    "validation_fingerprint": "ab12",
    "repeated_rows": {"num_rows": 800, "num_repeated": 8, "expected": 0.01, "trusted": False},
    "num_calibrations": 1,
    "precision": "float32",
    "device": "cpu",
    "attn_implementation": "sdpa",
    "versions": {"python": "3.11.2"},
}


def save_folder(folder: Path, *, thresholds=(0.4, 0.6), **kwargs) -> Path:
    """Write one."""
    torch.manual_seed(0)
    options = {"thresholds": list(thresholds), "calibration": EVIDENCE, **kwargs}
    model = tiny.bert_with_sidenets(**options)
    tokenizer = save_tokenizer(folder)
    if model.config.calibration is not None:
        model.config.calibration = {**model.config.calibration, "certified": certificate(model, tokenizer, 512)}
    model.save_pretrained(folder)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    (folder / "report.json").write_text(json.dumps({"verdict": "attach"}))
    (folder / "figures").mkdir()
    (folder / "figures" / "accuracy_cost.png").write_bytes(b"\x89PNG")
    return folder


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Whole words."""
    words = Tokenizer(WordLevel({"[UNK]": 0, "[PAD]": 1, **{word: i + 5 for i, word in enumerate(WORDS)}}, "[UNK]"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
    tokenizer.save_pretrained(folder)
    return tokenizer


def change_json(path: Path, **changes) -> None:
    """Set keys of a JSON file; `None` removes a key."""
    document = json.loads(path.read_text(encoding="utf-8"))
    document = {key: value for key, value in {**document, **changes}.items() if value is not None}
    path.write_text(json.dumps(document), encoding="utf-8")
