# SPDX-License-Identifier: Apache-2.0
"""The command line before it does anything: help, defaults, wording, missing dependencies."""

import inspect
import pickle
import subprocess
import sys
from typing import get_args

import pytest

import hf_sidenet
from hf_sidenet.calibration.label_checks import ClassOrderError
from hf_sidenet.cli import calibrating, options
from hf_sidenet.cli.app import app
from hf_sidenet.cli.errors import error_line
from hf_sidenet.models.errors import ArgumentError

from ..examples.commands import ROOT
from .test_cli import run


COMMANDS = ("attach", "evaluate", "recalibrate", "export", "benchmark", "push", "demo", "info")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ArgumentError("train_file", "'a.tsv' could not be read: no"), "--train-file: 'a.tsv' could not be read: no."),
        (ArgumentError("seed", "must be ≥ 0", -1), "--seed: must be ≥ 0, got -1."),
        (ArgumentError("text_columns", "must be one column"), "--text-column: must be one column."),
        (ArgumentError("mainnet", "must be a folder", "x"), "MAINNET: must be a folder, got 'x'."),
        (ArgumentError("no_header", "must not be given with `dataset_name`", "x"),
         "--no-header: must not be given with --dataset-name, got 'x'."),
        (ArgumentError("id2label", "must be a dict", 1, "See `labels`."),
         "`id2label` must be a dict, got 1. See --labels."),
        (ValueError("pass one of `dataset_name` and `train_file`."), "pass one of --dataset-name and --train-file."),
        (ValueError("two\nlines of `id2label`"), "two lines of `id2label`"),
        (ClassOrderError("it does not fit.", ["a", "b c"]), "it does not fit. If that is the order of its outputs: "
         "--labels a 'b c'. If the labels are right and the MainNet is wrong: --trust-labels."),
    ],
)  # fmt: skip
def test_errors_of_the_library_name_the_option(error, line):
    assert error_line(error) == line
    assert error_line(pickle.loads(pickle.dumps(error))) == line


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    done = run(name, "--help")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 100
    assert f"Example: hf-sidenet {name} " in done.out
    command = next(each for each in app.registered_commands if (each.name or each.callback.__name__) == name)
    for parameter in inspect.signature(command.callback).parameters:
        flag = {"as_json": "--json", "mainnet": "MAINNET", "directory": "DIRECTORY", "repo": "REPO"}.get(parameter)
        assert (flag or "--" + parameter.replace("_", "-")) in done.out


def test_no_command_prints_the_help():
    assert run().out == run("--help").out
    assert all(name in run().out for name in COMMANDS)


def test_choices_and_defaults_are_the_librarys(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERMINAL_WIDTH", "200")
    from hf_sidenet.attaching.attach import REFERENCES, TUNES, attach
    from hf_sidenet.calibration import TESTS
    from hf_sidenet.cli.calibrating import attach as typed
    from hf_sidenet.training.heads import HeadTraining
    from hf_sidenet.training.joint import JointTraining

    assert get_args(calibrating.Tune) == TUNES
    assert get_args(calibrating.Reference) == REFERENCES
    assert get_args(options.TestMethod) == TESTS
    here, there = inspect.signature(typed).parameters, inspect.signature(attach).parameters
    names = ("confidence_level", "max_exits", "certification_fraction", "batch_size", "seed")
    for name in (*names, "tune", "reference", "test_method"):
        assert here[name].default == there[name].default, name
    assert here["target"].default == [there["target"].default]
    assert here["hidden_size"].default == HeadTraining().hidden_size
    # The help shows defaults that depend on other options.
    said = " ".join(run("attach", "--help").out.replace("│", " ").split())
    heads, joint = HeadTraining(), JointTraining()
    for text in (
        f"{heads.distillation_weight:g} for heads, {joint.distillation_weight:g} for joint",
        f"{joint.num_epochs:g}",
        f"{joint.batch_size}",
    ):
        assert f"[default: {text}]" in said
    assert joint.learning_rate == 5e-5
    assert "[default: 5e-5]" in said


def test_version():
    assert run("--version").out == f"{hf_sidenet.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS), ["attach", "M", "--nope"], ["attach"], []],
    ids=" ".join,
)
def test_nothing_heavy_is_imported_before_a_command_works(arguments):
    code = (
        "import sys; from hf_sidenet.cli import main; code = main(sys.argv[1:])\n"
        "heavy = {'torch', 'transformers', 'numpy', 'datasets', 'scipy', 'matplotlib', 'huggingface_hub'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True)
    wrong = arguments[-1:] in (["--nope"], ["attach"])
    assert done.returncode == (2 if wrong else 0), done.stderr
    # Nothing else is imported.
    assert len(done.stderr.splitlines()) == wrong
    assert bool(done.stdout) != wrong


@pytest.mark.medium
def test_as_a_process():
    command = [sys.executable, "-m", "hf_sidenet.cli", "info", "--nope"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: No such option")


@pytest.mark.medium
def test_without_typer():
    code = "import sys; sys.modules['typer'] = None; from hf_sidenet.cli import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == 'Error: This needs typer: pip install "hf_sidenet[attach]"'
    assert "Traceback" not in done.stderr
