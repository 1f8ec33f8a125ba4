# SPDX-License-Identifier: Apache-2.0
"""The Auto classes know SideNets in every process that imported hf_sidenet, in whatever order, and pay nothing."""

import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from hf_sidenet import BertWithSideNetForSequenceClassification

from .attached import save_text_mainnet, sentences


AUTO = "from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModel, pipeline"
BEFORE, AFTER = f"{AUTO}\nimport hf_sidenet", f"import hf_sidenet\n{AUTO}"
LIGHT = "assert 'hf_sidenet.models' not in sys.modules"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint without the code in it, so that nothing but the installed package can load it."""
    folder = tmp_path_factory.mktemp("auto")
    save_text_mainnet(folder / "mainnet", sentences()["train"])
    tokenizer = AutoTokenizer.from_pretrained(folder / "mainnet")
    model = BertWithSideNetForSequenceClassification.from_mainnet(str(folder / "mainnet"), exit_layers=[1, 3])
    model.save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    for path in (folder / "checkpoint").glob("*.py"):
        path.unlink()
    return str(folder / "checkpoint")


def said(*lines, arguments=(), options=()):
    """Standard output of a process that runs these lines."""
    code = "\n".join(["import sys", *lines])
    done = subprocess.run([sys.executable, *options, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.medium
@pytest.mark.parametrize(
    ("imports", "expression"),
    [
        (AFTER, "AutoConfig.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1])"),
        (AFTER, "AutoConfig.for_model('sidenet'), AutoModelForSequenceClassification.from_pretrained(sys.argv[1])"),
        (AFTER, "AutoConfig.for_model('sidenet'), pipeline('text-classification', sys.argv[1]).model"),
        (BEFORE, "AutoConfig.from_pretrained(sys.argv[1]), AutoModel.from_pretrained(sys.argv[1])"),
    ],
    ids=["config", "model", "pipeline", "before"],
)
def test_a_checkpoint_loads_though_no_name_was_touched(folder, imports, expression):
    names = said(imports, LIGHT, f"print([type(each).__name__ for each in ({expression})])", arguments=[folder])
    assert names == "['SideNetConfig', 'BertWithSideNetForSequenceClassification']"


@pytest.mark.medium
def test_threads_that_import_at_once(folder):
    said(
        "import threading, importlib, time",
        "start = threading.Barrier(8)",
        "def load(name):",
        "    start.wait()",
        "    importlib.import_module(name)",
        "names = ['hf_sidenet', 'transformers.models.auto.configuration_auto'] * 4",
        "threads = [threading.Thread(target=load, args=(name,)) for name in names]",
        "for thread in threads: thread.start()",
        "for thread in threads: thread.join(60)",
        "assert not any(thread.is_alive() for thread in threads)",
        "from transformers import AutoConfig",
        "print(AutoConfig.from_pretrained(sys.argv[1]).exit_layers)",
        arguments=[folder],
    )


@pytest.mark.medium
def test_a_reload_registers_again(folder):
    lines = [
        "import importlib, hf_sidenet, transformers.models.auto.configuration_auto as auto",
        "count = len(sys.meta_path)",
        "importlib.reload(hf_sidenet)",
        "assert len(sys.meta_path) == count",
        "importlib.reload(hf_sidenet.auto_classes)",
        "importlib.reload(auto)",
        "print(auto.AutoConfig.from_pretrained(sys.argv[1]).exit_layers)",
    ]
    assert said(*lines, arguments=[folder]) == "[1, 3]"


@pytest.mark.medium
def test_the_module_is_as_if_nobody_had_been_in_between():
    lines = [
        "import hf_sidenet, inspect, pickle, transformers.models.auto.configuration_auto as auto",
        "print(type(auto.__spec__.loader).__name__, type(auto.__loader__).__name__)",
        "assert 'class AutoConfig' in inspect.getsource(auto)",
        "again = pickle.loads(pickle.dumps(auto.CONFIG_MAPPING))",
        "assert 'sidenet' in again and again['sidenet'] is auto.CONFIG_MAPPING['sidenet']",
        LIGHT,
        "from hf_sidenet import SideNetConfig",
        "assert auto.CONFIG_MAPPING['sidenet'] is SideNetConfig",
    ]
    assert said(*lines) == "SourceFileLoader SourceFileLoader"


@pytest.mark.medium
def test_a_config_is_pickled_as_itself(folder):
    lines = ["import pickle", AFTER, "config = pickle.dumps(AutoConfig.from_pretrained(sys.argv[1]))"]
    lines += ["assert b'hf_sidenet.models.configuration_sidenet' in config and b'Lazy' not in config"]
    said(*lines, arguments=[folder])


@pytest.mark.medium
def test_an_error_of_transformers_passes_and_is_not_for_ever():
    lines = [
        "import hf_sidenet, builtins",
        "sys.modules['transformers.models.auto.auto_mappings'] = None",
        "try:",
        "    import transformers.models.auto.configuration_auto",
        "except ImportError:",
        "    del sys.modules['transformers.models.auto.auto_mappings']",
        "from transformers import AutoConfig",
        "print('sidenet' in sys.modules['transformers.models.auto.configuration_auto'].CONFIG_MAPPING)",
    ]
    assert said(*lines) == "True"


@pytest.mark.medium
def test_import_times_can_be_measured(folder):
    options = ["-X", "importtime"]
    lines = ["import hf_sidenet", "import transformers.models.auto.configuration_auto as auto", LIGHT]
    assert said(*lines, "print('sidenet' in auto.CONFIG_MAPPING)", options=options) == "True"


@pytest.mark.parametrize(
    "lines",
    [
        ["import hf_sidenet", "dir(hf_sidenet)", "hf_sidenet.__version__"],
        ["import hf_sidenet", "assert not hasattr(hf_sidenet, 'nothing') and not hasattr(hf_sidenet, '__wrapped__')"],
    ],
)
def test_importing_the_package_is_light(lines):
    said(*lines, "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)")
