# SPDX-License-Identifier: Apache-2.0
"""The Python on the pages of docs/ runs as it stands, in the order of the page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

from hf_sidenet import BertWithSideNetForSequenceClassification
from hf_sidenet.benchmark.catalog import Catalog, Settings
from hf_sidenet.checkpoint import load_checkpoint
from hf_sidenet.inference import export_onnx

from .attached import sentences
from .benchmark.checkpoints import save_text_checkpoint
from .benchmark.test_catalog import text_rows
from .models import tiny
from .shareable.folder import save_folder


DOCS = Path(__file__).parents[1] / "docs"
# Run by tests of their own, or made by mkdocstrings.
ELSEWHERE = {"tutorials/cheaper-classifier.md"}


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), flags=re.DOTALL)


def collate(rows):
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def classifier(**names):
    """A plain BERT with the name and the number of blocks that the pages have."""
    tiny.bert(num_hidden_layers=6).save_pretrained("my-org/bert-base-sst2")
    batch = tiny.texts(24)
    rows = [{name: values[i] for name, values in batch.items()} | {"labels": torch.tensor(i % 3)} for i in range(24)]
    return {"train_rows": rows[:16], "validation_rows": rows[16:], **names}


def training():
    names = classifier()
    model = BertWithSideNetForSequenceClassification.from_mainnet("my-org/bert-base-sst2", exit_layers=[4])
    loaders = [DataLoader(names[key], 8, collate_fn=collate) for key in ("train_rows", "validation_rows")]
    return {**names, "model": model, "loader": loaders[0], "eval_loader": loaders[1]}


def costs():
    names = classifier()
    model = BertWithSideNetForSequenceClassification.from_mainnet("my-org/bert-base-sst2", exit_layers=[4]).eval()
    batches = [collate(names["validation_rows"])]
    return {"model": model, "dataloader": batches, "output": model(**batches[0], thresholds=0.5)}


def checkpoint():
    save_text_checkpoint("my-classifier-sidenet")
    rows = sentences(test=40)["test"]
    return {"texts": rows["text"][:], "rows": [{"text": text} for text in rows["text"]], "torch": torch}


def benchmark():
    save_text_checkpoint("my-classifier-sidenet")
    methods = Catalog(Settings("my-classifier-sidenet")).methods()
    rows = text_rows()
    return {"my_method": replace(methods[0], kind="my own"), "rows": rows, "labels": [row.place % 2 for row in rows]}


def timm_classifier():
    config = TimmWrapperConfig(architecture="resnet10t", num_labels=3, do_pooling=True)
    TimmWrapperForImageClassification(config).save_pretrained("timm/resnet10t.c3_in1k")
    return {}


def exported():
    names = checkpoint()
    model, tokenizer = load_checkpoint("my-classifier-sidenet")
    export_onnx(model, "my-classifier-onnx", processor=tokenizer)
    return names


def shared():
    save_folder(Path("my-classifier-sidenet"))
    # Where the page names the Hub, a folder of that name is taken.
    Path("my-org").mkdir()
    save_folder(Path("my-org/my-classifier-sidenet"))
    return {}


PREPARED = {
    "index.md": classifier,
    "concepts/three-currencies.md": costs,
    "concepts/training.md": training,
    "how-to/benchmark.md": benchmark,
    "how-to/choose-a-target.md": dict,
    "how-to/export.md": exported,
    "how-to/lower-precision.md": checkpoint,
    "how-to/run-fast.md": checkpoint,
    "how-to/timm.md": timm_classifier,
    "how-to/share.md": shared,
}


def test_every_page_with_python_is_run_somewhere():
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if blocks_of(page.relative_to(DOCS))}
    assert pages == PREPARED.keys() | ELSEWHERE


@pytest.mark.parametrize("page", PREPARED)
def test_python_on_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = {**PREPARED[page](), "__name__": "page"}
    for block in blocks_of(page):
        exec(compile(block, page, "exec"), names)


def test_the_numbers_of_rows_on_the_page_of_targets(capsys):
    (block,) = blocks_of("how-to/choose-a-target.md")
    exec(block, {})
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    page = (DOCS / "how-to/choose-a-target.md").read_text()
    assert f"It prints {', '.join(printed[:-1])} and {printed[-1]}:" in page
