# SPDX-License-Identifier: Apache-2.0
"""Run by test_checkpoint_folder.py in a separate process, where hf_sidenet cannot be imported.

usage: load_folder.py FOLDER

The working directory holds FOLDER, `inputs.safetensors` and `image.png`; writes `outputs.safetensors`. Then it runs
the code of the card, as it stands there.
"""

import re
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


sys.modules["hf_sidenet"] = None
torch.set_num_threads(1)

folder = sys.argv[1]
inputs = load_file("inputs.safetensors")
auto = "AutoModelForImageClassification" if "pixel_values" in inputs else "AutoModelForSequenceClassification"
model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules"), type(model).__module__
with torch.no_grad():
    routed, alone = model(**inputs), model(**inputs, thresholds=1.0)
save_file(
    {
        "logits": routed.logits,
        "exit_index": routed.exit_index,
        "alone": alone.logits,
        "thresholds": torch.tensor(model.config.thresholds, dtype=torch.float64),
        "temperatures": torch.tensor(model.config.temperatures, dtype=torch.float64),
    },
    "outputs.safetensors",
)
assert model.config.calibration["targets"], model.config.calibration

code = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
names = {}
for block in code:
    exec(block, names)
assert len(code) == 2, code
assert names["answer"] in ("bad", "good")
assert names["classify"]
