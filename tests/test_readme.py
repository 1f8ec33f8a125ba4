# SPDX-License-Identifier: Apache-2.0
"""The README's Python runs as it stands, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from .attached import save_text_mainnet, sentences
from .models import tiny


README = (Path(__file__).parents[1] / "README.md").read_text()


def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    tiny.bert().save_pretrained(tmp_path / "my-classifier")
    monkeypatch.chdir(tmp_path)
    ids = tiny.texts(32)["input_ids"]
    rows = [{"input_ids": row, "labels": row[0] % 3} for row in ids]
    names = {"train": rows[:24], "validation": rows[24:], "batch": {"input_ids": ids[:4]}}
    for block in blocks:
        exec(block, names)
    assert names["output"].exit_index.shape == torch.Size([4])
    assert "% of parameters" in capsys.readouterr().out


def test_the_attach_command_as_typed(tmp_path):
    (command,) = re.findall(r"^hf-sidenet attach .*?[^\\]$", README, flags=re.MULTILINE | re.DOTALL)
    rows = sentences(validation=420)
    save_text_mainnet(tmp_path / "my-classifier", rows["train"])
    for name, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        lines = [f"{row['text']}\t{('bad', 'good')[row['label']]}" for row in rows[split]]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tlabel", *lines]) + "\n")
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Guarantee: with probability ≥ 0.95" in done.stdout
    names = {path.name for path in (tmp_path / "my-classifier-sidenet").iterdir()}
    assert {"model.safetensors", "config.json", "report.json", "figures", "README.md", "tokenizer.json"} <= names


def test_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    targets = set(re.findall(r"make ([a-z-]+)", README))
    assert {"demo", "test", "demo-text"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_exist():
    for link in re.findall(r"\]\(((?!http)[^)#]+)", README):
        assert (Path(__file__).parents[1] / link).exists(), link
