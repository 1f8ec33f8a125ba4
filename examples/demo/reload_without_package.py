# SPDX-License-Identifier: Apache-2.0
"""Load a checkpoint as others would: with transformers only, hf_sidenet not importable.

usage: reload_without_package.py CHECKPOINT ROWS.safetensors
"""

import json
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification


sys.modules["hf_sidenet"] = None  # any `import hf_sidenet` fails from here on
checkpoint, rows = sys.argv[1], load_file(sys.argv[2])
auto_class = AutoModelForImageClassification if "pixel_values" in rows else AutoModelForSequenceClassification
model = auto_class.from_pretrained(checkpoint, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
with torch.no_grad():
    output = model(**rows)
print(json.dumps({"labels": output.logits.argmax(-1).tolist(), "exit_index": output.exit_index.tolist()}))
