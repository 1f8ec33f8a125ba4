# SPDX-License-Identifier: Apache-2.0
"""The README's Python runs as it stands, and its commands exist."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from .attached import save_text_mainnet, sentences


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETUP = (ROOT / "setup.cfg").read_text()


@pytest.mark.medium
def test_python_blocks_run_in_order(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(blocks) >= 3
    rows = sentences(validation=420)
    save_text_mainnet(tmp_path / "my-classifier", rows["train"])
    monkeypatch.chdir(tmp_path)
    tokens = AutoTokenizer.from_pretrained("my-classifier")(["a warm film", "dull"], padding=True, return_tensors="pt")
    names = {**rows, "batch": dict(tokens), "texts": ["a bright film", "a dull one", "it is"]}
    for block in blocks:
        exec(block, names)
    assert names["output"].exit_index.shape == torch.Size([2])
    out = capsys.readouterr().out
    first, _ = out.split("\n", 1)
    # What the README shows, by its form.
    shown = re.search(r"```text\n(.*?)```", README, flags=re.DOTALL)[1].splitlines()
    for text in (first, shown[0]):
        assert re.fullmatch(r"[01]\.\d\d of the FLOPs, -?\d+\.\d\d points less accurate", text), text
    for line in shown[1:]:
        assert re.fullmatch(r"(positive|negative) [01]\.\d\d exit \d", line), line
    assert "% of parameters" in out
    assert len(re.findall(r"^(good|bad) [01]\.\d+ \d$", out, flags=re.MULTILINE)) == 3


@pytest.mark.slow
def test_the_commands_as_typed(tmp_path):
    commands = re.findall(r"^hf-sidenet .*?[^\\]$", README, flags=re.MULTILINE | re.DOTALL)
    assert [command.split()[1] for command in commands] == ["attach", "export", "recalibrate", "benchmark"]
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
    printed = []
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 0, command + done.stderr[-2000:]
        printed.append(done.stdout)
    attached, _, recalibrated, compared = printed
    assert "Guarantee: with probability ≥ 0.95" in attached
    assert "Guarantee: with probability ≥ 0.95" in recalibrated
    assert re.search("worth it here|do not use here", compared, flags=re.IGNORECASE)
    names = {path.name for path in (tmp_path / "my-classifier-sidenet").iterdir()}
    assert {"model.safetensors", "config.json", "report.json", "figures", "README.md", "tokenizer.json"} <= names


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"make ([a-z-]+)", README))
    assert {"demo", "test", "demo-text"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_links_are_whole_and_lead_to_files_that_exist():
    assert not re.findall(r"\]\((?!https?://)[^)]*\)", README)
    source = re.search(r"^ +Source = (https://github\.com/\S+)$", SETUP, flags=re.MULTILINE)[1]
    raw = source.replace("//github.com/", "//raw.githubusercontent.com/")
    defined = dict(re.findall(r"^\[([^\]]+)\]: (\S+)$", README, flags=re.MULTILINE))
    assert defined.keys() == set(re.findall(r"\]\[([^\]]+)\]", README))
    for path, url in defined.items():
        assert url == (f"{raw}/main/{path}" if path.endswith(".png") else f"{source}/blob/main/{path}")
        assert (ROOT / path).exists(), path
    for url in re.findall(r'src="([^"]+)"', README):
        assert (ROOT / url.removeprefix(f"{raw}/main/")).exists(), url
