# SPDX-License-Identifier: Apache-2.0
"""Run by test_push_to_hub.py in a process of its own, where hf_sidenet cannot be imported and nothing is cached.

usage: load_from_hub.py OUTPUT.safetensors TEXTS.json REPO...
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer


sys.modules["hf_sidenet"] = None
torch.set_num_threads(1)

output, texts, *repos = sys.argv[1:]
answers = {}
for repo in repos:
    tokenizer = AutoTokenizer.from_pretrained(repo, trust_remote_code=True)
    model = AutoModelForSequenceClassification.from_pretrained(repo, trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
    inputs = tokenizer(json.loads(Path(texts).read_text()), padding=True, return_tensors="pt")
    with torch.no_grad():
        for key, thresholds in (("own", None), ("off", 1.0)):
            found = model(**inputs, thresholds=thresholds)
            answers[f"{repo}.{key}.logits"], answers[f"{repo}.{key}.exit_index"] = found.logits, found.exit_index
save_file(answers, output)
