# SPDX-License-Identifier: Apache-2.0
"""What users may import, and the rules of the house that a test can hold."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import hf_sidenet


ROOT = Path(__file__).parents[1]
PUBLIC = [
    "BertWithSideNetForSequenceClassification",
    "CamembertWithSideNetForSequenceClassification",
    "ConvNextV2WithSideNetForImageClassification",
    "ConvNextWithSideNetForImageClassification",
    "DebertaV2WithSideNetForSequenceClassification",
    "DeiTWithSideNetForImageClassification",
    "Dinov2WithSideNetForImageClassification",
    "DistilBertWithSideNetForSequenceClassification",
    "ElectraWithSideNetForSequenceClassification",
    "ExitRecords",
    "MPNetWithSideNetForSequenceClassification",
    "ModernBertWithSideNetForSequenceClassification",
    "RegNetWithSideNetForImageClassification",
    "ResNetWithSideNetForImageClassification",
    "RobertaWithSideNetForSequenceClassification",
    "SideNetConfig",
    "SideNetForImageClassification",
    "SideNetForSequenceClassification",
    "SideNetOutput",
    "SideNetRunner",
    "SwinWithSideNetForImageClassification",
    "TimmWithSideNetForImageClassification",
    "ViTWithSideNetForImageClassification",
    "XLMRobertaWithSideNetForSequenceClassification",
    "attach",
    "collect",
    "compute_exit_metrics",
]


def test_public_names():
    assert hf_sidenet.__all__ == PUBLIC
    for name in PUBLIC:
        assert getattr(hf_sidenet, name).__doc__, name


def test_one_version():
    assert metadata.version("hf_sidenet") == hf_sidenet.__version__
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.*)$", citation, flags=re.MULTILINE)[1] == hf_sidenet.__version__
    newest = re.search(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1]
    assert newest in (hf_sidenet.__version__, "Unreleased")


@pytest.mark.medium
def test_importing_needs_no_extra():
    code = (
        "import sys\n"
        "for name in 'timm torchvision datasets evaluate matplotlib sklearn scipy typer PIL gradio'.split():\n"
        "    sys.modules[name] = None\n"
        "import hf_sidenet, hf_sidenet.evaluation\n"
        "print(hf_sidenet.SideNetConfig().exit_layers)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[1]"
