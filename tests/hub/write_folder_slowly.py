# SPDX-License-Identifier: Apache-2.0
"""Run by test_checkpoint_folder.py, which kills it while it writes.

usage: write_folder_slowly.py CHECKPOINT FOLDER STARTED

Writes FOLDER like CHECKPOINT. When it is half done it makes the file STARTED, and waits to be killed.
"""

import json
import sys
import time
from pathlib import Path

from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.hub.push import save_checkpoint


checkpoint, folder, started = sys.argv[1:]
model, processor = load_checkpoint(checkpoint)


class NeverDone(type(processor)):
    """A tokenizer that writes a file and stops there."""

    def save_pretrained(self, path):
        assert Path(path, "model.safetensors").exists()
        Path(path, "half.json").write_text("{")
        Path(started).touch()
        time.sleep(600)


processor.__class__ = NeverDone
save_checkpoint(folder, model, processor, json.loads(Path(checkpoint, "report.json").read_text()), overwrite=True)
