# SPDX-License-Identifier: Apache-2.0
"""The Python on the pages of docs/ runs as it stands, in the order of the page."""

import importlib
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    HfArgumentParser,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    TrainingArguments,
)

import hf_sidenet.models
from hf_sidenet import BertWithSideNetForSequenceClassification, SideNetForSequenceClassification
from hf_sidenet.attaching.checkpoint import load_checkpoint
from hf_sidenet.benchmark.catalog import Catalog, Settings
from hf_sidenet.export import export_onnx
from hf_sidenet.training import MainNetArguments, SideNetArguments

from .attached import sentences
from .benchmark.checkpoints import save_text_checkpoint
from .benchmark.test_catalog import text_rows
from .examples.commands import minilm
from .hub.folder import save_folder
from .models import tiny
from .models.own_code import toy


DOCS = Path(__file__).parents[1] / "docs"
# Run by tests of their own, or made by mkdocstrings.
ELSEWHERE = {"tutorials/cheaper-classifier.md"}


def blocks_of(page):
    return [block for block, _ in blocks_and_outputs(page)]


def blocks_and_outputs(page):
    """Every block of Python, and the block of text that follows it at once, or ""."""
    pattern = r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?"
    found = re.findall(pattern, (DOCS / page).read_text(), flags=re.DOTALL)
    return [(dedent(block), output) for block, output in found]


def without_numbers(text):
    """Lines with # for every number."""
    return [re.sub(r"\d+(\.\d+)?(e-?\d+)?", "#", line) for line in text.splitlines()]


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


def watched():
    """More texts than rows are needed to calibrate on those that were looked at."""
    save_text_checkpoint("my-classifier-sidenet")
    return {"texts": sentences(test=2000)["test"]["text"][:]}


def integrations():
    """A plain classifier, and a checkpoint with its rows."""
    names = classifier()
    save_text_checkpoint("my-classifier-sidenet")
    splits = sentences(validation=400)
    return {**names, "texts": splits["test"]["text"][:], "validation": splits["validation"]}


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


def texts():
    """Sentences in the files of SST-2, and a tiny BERT without a head in the place of a pretrained one."""
    Path("sst2").mkdir()
    for name, rows in sentences(train=2000, dev=200, test=200, validation=0).items():
        lines = [f"{row['text']}\t{row['label']}\n" for row in rows]
        Path("sst2", f"{name}.tsv").write_text("".join(lines))
    encoder, tokenizer = "sentence-transformers/all-MiniLM-L6-v2", AutoTokenizer.from_pretrained(minilm())
    tiny.bert(num_hidden_layers=6, vocab_size=len(tokenizer)).bert.save_pretrained(encoder)
    tokenizer.save_pretrained(encoder)
    return {}


def mainnets():
    """One that works without a class of its own, and one of whose lists of blocks one is named."""
    fields = {
        "vocab_size": 99,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 37,
        "pad_token_id": 0,
    }
    ernie = AutoConfig.for_model("ernie", num_hidden_layers=4, max_position_embeddings=64, **fields)
    sizes = {"vocab_size": 99, "d_model": 32, "encoder_layers": 3, "decoder_layers": 3, "pad_token_id": 0}
    for kind, config in (("ernie", ernie), ("bart", AutoConfig.for_model("bart", **sizes))):
        AutoModelForSequenceClassification.from_config(config).save_pretrained(f"some-org/{kind}-classifier")
    toy().save_pretrained("some-org/their-encoder")
    return {}


def shared():
    save_folder(Path("my-classifier-sidenet"))
    # Where the page names the Hub, a folder of that name is taken.
    Path("my-org").mkdir()
    save_folder(Path("my-org/my-classifier-sidenet"))
    return {}


def own_network():
    shutil.copy(DOCS.parent / "examples/own_network/net.py", "net.py")
    return {}


PREPARED = {
    "index.md": classifier,
    "concepts/input-exit.md": classifier,
    "concepts/three-currencies.md": costs,
    "concepts/training.md": training,
    "how-to/add-a-mainnet.md": mainnets,
    "how-to/benchmark.md": benchmark,
    "how-to/choose-a-target.md": dict,
    "how-to/export.md": exported,
    "how-to/lower-precision.md": checkpoint,
    "how-to/monitor.md": watched,
    "how-to/integrations.md": integrations,
    "how-to/run-fast.md": checkpoint,
    "how-to/timm.md": timm_classifier,
    "how-to/share.md": shared,
    "tutorials/images.md": dict,
    "tutorials/serve.md": exported,
    "tutorials/texts.md": texts,
    "tutorials/torchvision.md": own_network,
}


def test_every_page_with_python_is_run_somewhere():
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if blocks_of(page.relative_to(DOCS))}
    assert pages == PREPARED.keys() | ELSEWHERE


@pytest.mark.medium
@pytest.mark.parametrize("page", PREPARED)
def test_python_on_a_page_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    torch.manual_seed(0)
    names = {**PREPARED[page](), "__name__": "page"}
    for block, output in blocks_and_outputs(page):
        capsys.readouterr()
        exec(compile(block, page, "exec"), names)
        if output:
            # Numbers differ between machines and from tiny models, words do not.
            printed = without_numbers(capsys.readouterr().out)
            assert [line for line in printed if line in without_numbers(output)] == without_numbers(output)


def test_the_numbers_of_rows_on_the_page_of_targets(capsys):
    (block,) = blocks_of("how-to/choose-a-target.md")
    exec(block, {})
    printed = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    page = (DOCS / "how-to/choose-a-target.md").read_text()
    assert f"It prints {', '.join(printed[:-1])} and {printed[-1]}:" in page


def test_the_new_test_file_on_the_page_of_new_mainnets(monkeypatch):
    page = (DOCS / "how-to/add-a-mainnet.md").read_text()
    (test_file,) = re.findall(r'```python title="tests/models/.*?"\n(.*?)```', page, flags=re.DOTALL)
    names = {"SideNetForSequenceClassification": SideNetForSequenceClassification}
    exec(blocks_of("how-to/add-a-mainnet.md")[-1], names)
    kind = names["ErnieWithSideNetForSequenceClassification"]
    monkeypatch.setattr(hf_sidenet.models, kind.__name__, kind, raising=False)
    names = {"__name__": "tests.models.test_modeling_ernie"}
    exec(dedent(test_file), names)
    tests = names["TestErnie"]()
    tests.test_exits_off_is_the_plain_mainnet_bit_for_bit()
    tests.test_theta_zero_runs_only_the_first_blocks()
    tests.test_what_learns()


def test_commands_on_the_page_of_several_gpus_have_flags_that_exist(monkeypatch):
    examples = DOCS.parent / "examples"
    monkeypatch.syspath_prepend(str(examples / "text_classification"))
    text_data = importlib.import_module("text_data")
    loop = importlib.import_module("run_text_classification_no_trainer")
    page = (DOCS / "how-to/several-gpus.md").read_text()
    commands = [command.replace("\\\n", " ") for command in re.findall(r"```bash\n(.*?)```", page, flags=re.DOTALL)]
    parsed = 0
    for command in commands:
        _, script, rest = command.partition("examples/text_classification/")
        if script:
            name, *given = shlex.split(rest)
            assert (examples / "text_classification" / name).exists()
            last = loop.LoopArguments if "no_trainer" in name else TrainingArguments
            parser = HfArgumentParser(
                (MainNetArguments, text_data.DataArguments, SideNetArguments, last), allow_abbrev=False
            )
            assert vars(parser.parse_args(given))["model_name_or_path"] == "my-org/my-classifier"
            parsed += 1
    assert parsed == 3
