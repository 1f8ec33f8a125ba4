# SPDX-License-Identifier: Apache-2.0
"""What users may import, and the rules of the house that a test can hold."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import hf_sidenet
from hf_sidenet.models import IMAGE_MODELS, TEXT_MODELS
from hf_sidenet.models.configuration_sidenet import NAMED_ARCHITECTURES


ROOT = Path(__file__).parents[1]
# Beside the model classes.
PUBLIC = [
    "ExitRecords",
    "SideNetConfig",
    "SideNetOutput",
    "SideNetRunner",
    "attach",
    "check_shareable",
    "collect",
    "compute_exit_metrics",
    "evaluate_checkpoint",
    "load_checkpoint",
    "recalibrate",
]


def test_public_names():
    """Every model class that there is, and these."""
    models = [model.__name__ for model in (*TEXT_MODELS, *IMAGE_MODELS)]
    assert len(models) == 20
    assert hf_sidenet.__all__ == sorted([*models, *PUBLIC])
    assert set(hf_sidenet.__all__) <= set(dir(hf_sidenet))
    for name in hf_sidenet.__all__:
        assert getattr(hf_sidenet, name).__doc__, name


def test_a_config_names_the_class_that_is_made_for_its_mainnet():
    models = (*TEXT_MODELS, *IMAGE_MODELS)
    named = {model.mainnet_model_type: model.__name__ for model in models if model.mainnet_model_type is not None}
    assert named == NAMED_ARCHITECTURES


def test_every_name_is_there_for_a_star_import():
    names: dict = {}
    exec("from hf_sidenet import *", names)
    assert set(hf_sidenet.__all__) <= set(names)


@pytest.mark.medium
def test_a_room_is_there_without_an_import_of_its_own():
    code = "import hf_sidenet; print(hf_sidenet.calibration.TESTS, hf_sidenet.optional.require.__name__)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "paired" in done.stdout


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="module 'hf_sidenet' has no attribute 'atach'"):
        hf_sidenet.atach  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'atach' from 'hf_sidenet'"):
        exec("from hf_sidenet import atach")


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
        "import hf_sidenet, hf_sidenet.evaluation\nfrom hf_sidenet import *\n"
        "print(hf_sidenet.SideNetConfig().exit_layers)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[1]"
