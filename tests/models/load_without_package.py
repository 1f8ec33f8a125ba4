# SPDX-License-Identifier: Apache-2.0
"""Run by test_remote_code.py in a process of its own, where hf_sidenet cannot be imported.

usage: load_without_package.py FOLDER

FOLDER/<name>/ holds `checkpoint`, `plain` (the MainNet's own checkpoint) and `inputs.safetensors`; writes
`outputs.safetensors` beside them.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file


sys.modules["hf_sidenet"] = None
torch.set_num_threads(1)


def aligned(model):
    """See tests/models/prepare.py, which cannot be imported here."""
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return model


for folder in sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir()):
    inputs = load_file(folder / "inputs.safetensors")
    thresholds = inputs.pop("thresholds").tolist()
    image = "pixel_values" in inputs
    auto_class = (
        transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
    )
    outputs = {}
    with torch.no_grad():
        plain = aligned(auto_class.from_pretrained(folder / "plain", attn_implementation="eager"))
        outputs["plain"] = plain(**inputs).logits
        for name in ("AutoModel", auto_class.__name__):
            auto = getattr(transformers, name)
            loaded = aligned(
                auto.from_pretrained(folder / "checkpoint", trust_remote_code=True, attn_implementation="eager")
            )
            assert type(loaded).__module__.startswith("transformers_modules"), type(loaded).__module__
            for key, theta in (("off", 1.0), ("on", thresholds), ("all", 0.0)):
                output = loaded(**inputs, thresholds=theta)
                outputs[f"{name}.{key}.logits"] = output.logits
                outputs[f"{name}.{key}.exit_index"] = output.exit_index
    config = transformers.AutoConfig.from_pretrained(folder / "checkpoint", trust_remote_code=True)
    assert config.model_type == "sidenet"
    # Fine-tuned and saved again, from remote code: it must keep its code.
    loaded.train()
    loaded(**inputs, labels=torch.zeros(len(outputs["plain"]), dtype=torch.long)).loss.backward()
    torch.optim.SGD([p for p in loaded.parameters() if p.requires_grad], lr=1.0).step()
    loaded.eval().save_pretrained(folder / "again")
    with torch.no_grad():
        again = aligned(
            auto_class.from_pretrained(folder / "again", trust_remote_code=True, attn_implementation="eager")
        )
        outputs["again"] = again(**inputs, thresholds=0.0).logits
        outputs["tuned"] = loaded(**inputs, thresholds=0.0).logits
    save_file({key: value.contiguous() for key, value in outputs.items()}, folder / "outputs.safetensors")
