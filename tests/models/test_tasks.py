# SPDX-License-Identifier: Apache-2.0
"""What an answer is stands in one place."""

import ast
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, ResNetConfig

import hf_sidenet
from hf_sidenet import SideNetConfig
from hf_sidenet.models.modalities import IMAGE, TEXT
from hf_sidenet.models.tasks import SINGLE_LABEL, named_task, task_of


PACKAGE = Path(hf_sidenet.__file__).parent
ANSWERS = {"argmax", "softmax", "log_softmax", "cross_entropy", "num_labels"}
# The head, training, and what transformers itself asks a config or a model for.
ALLOWED = {
    "models/tasks.py": ANSWERS,
    "models/sidenet.py": {"num_labels"},
    "models/configuration_sidenet.py": {"num_labels"},
    "models/modeling_base.py": {"num_labels"},
    "models/raw_models.py": {"num_labels"},
    "training/arguments.py": {"num_labels"},
    "benchmark/plain.py": {"num_labels"},
}


def words(file):
    """Names and attributes in the code of a file, with their lines; not those in texts."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg | ast.keyword) and node.arg is not None:
            yield node.arg, node.lineno


def test_only_tasks_know_what_an_answer_is():
    found = [
        f"{path}:{line} {word}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for path in [file.relative_to(PACKAGE).as_posix()]
        for word, line in words(file)
        if word in ANSWERS - ALLOWED.get(path, set())
    ]
    assert found == []


def test_the_check_itself_sees_words(tmp_path):
    file = tmp_path / "file.py"
    file.write_text('"""argmax"""\nlogits.argmax(-1)\nf(num_labels=2)\n')
    assert set(words(file)) == {("argmax", 2), ("logits", 2), ("f", 3), ("num_labels", 3)}


@pytest.mark.parametrize(
    ("config", "modality"),
    [
        (SideNetConfig(BertConfig()), TEXT),
        (SideNetConfig(ResNetConfig()), IMAGE),
        (SideNetConfig(BertConfig(), architectures=["MyNet"]), TEXT),
        (ResNetConfig(), IMAGE),
        (BertConfig(architectures=["BertForSequenceClassification"]), TEXT),
    ],
)
def test_task_of_a_config(config, modality):
    assert task_of(config) == (SINGLE_LABEL, modality)


def test_names():
    assert named_task("single_label_classification") is SINGLE_LABEL
    with pytest.raises(ValueError, match=r"`task` must be one of single_label_classification, got 'other'"):
        named_task("other")
    assert SINGLE_LABEL.auto_class(IMAGE).__name__ == "AutoModelForImageClassification"
    assert SINGLE_LABEL.class_name(TEXT) == "SideNetForSequenceClassification"


def test_rows_of_a_task():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [torch.nan, 1.0]])
    labels = torch.tensor([0, 0, 1])
    assert SINGLE_LABEL.answer(logits[:2]).tolist() == [0, 1]
    assert SINGLE_LABEL.correct(logits, labels).tolist() == [True, False, False]
    assert SINGLE_LABEL.differs(logits, torch.tensor([[1.0, 0.0]] * 3)).tolist() == [False, True, True]
    right = SINGLE_LABEL.probably_right(logits[:2].unsqueeze(1), logits[:2], 1.0, labels[:2])
    expected = [(1 + torch.sigmoid(torch.tensor(2.0)).item()) / 2, torch.sigmoid(torch.tensor(1.0)).item() / 2]
    assert right.flatten().tolist() == pytest.approx(expected)
    assert SINGLE_LABEL.wrong_row([0, -100, 2], 2) == 2
    assert SINGLE_LABEL.wrong_row([0, -100, 1], 2) is None
