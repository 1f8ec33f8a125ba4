# SPDX-License-Identifier: Apache-2.0
"""Run in a process of its own: load a checkpoint whose MainNet has its own code, with and without the user's word."""

import json
import sys

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification


folder, inputs, installed = sys.argv[1], torch.load(sys.argv[2], weights_only=True), sys.argv[3] == "installed"
if installed:
    import hf_sidenet  # noqa: F401

found = {"package": "hf_sidenet" in sys.modules}
if installed:
    # Reading a config runs no code.
    found["unread"] = AutoConfig.from_pretrained(folder).mainnet_config.model_type
try:
    AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    found["refused"] = str(error)
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
found["mainnet"] = type(model.mainnet).__name__
found["config"] = type(model.config.mainnet_config).__name__
with torch.no_grad():
    found["logits"] = model(**inputs, thresholds=1.0).logits.tolist()
    found["exits"] = model(**inputs).exit_index.tolist()
# Once more, from what this process wrote.
model.save_pretrained(f"{folder}-again")
again = AutoModelForSequenceClassification.from_pretrained(f"{folder}-again", trust_remote_code=True).eval()
with torch.no_grad():
    found["again"] = again(**inputs, thresholds=1.0).logits.tolist()
print(json.dumps(found))
