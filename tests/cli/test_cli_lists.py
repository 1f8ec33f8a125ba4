# SPDX-License-Identifier: Apache-2.0
"""One syntax for all options with several values."""

import inspect

import pytest

from hf_sidenet.cli.app import EXAMPLES, command

from .test_cli import run


def typed(name, *arguments):
    """The arguments a command is called with."""
    context = command().commands[name].make_context(name, list(arguments))
    return {key: list(value) if isinstance(value, tuple) else value for key, value in context.params.items()}


LISTS = [
    ("attach", "exit_layers", ["1", "2"], [1, 2]),
    ("attach", "poolings", ["mean", "cls"], None),
    ("attach", "target", ["accuracy_drop<=0.01", "flops<=0.5"], None),
    ("attach", "labels", ["bad", "good"], None),
    ("attach", "text_column", ["premise", "hypothesis"], None),
    ("benchmark", "precision", ["float32", "int8"], None),
    ("benchmark", "engines", ["eager", "onnx"], None),
    ("benchmark", "also", ["one", "two"], None),
    ("benchmark", "thresholds", ["0.5", "1e-3"], [0.5, 1e-3]),
    ("benchmark", "batch_size", ["1", "32"], [1, 32]),
]


@pytest.mark.parametrize(("name", "parameter", "values", "expected"), LISTS, ids=lambda each: str(each))
def test_spaces_commas_repeats_dashes_and_underscores(name, parameter, values, expected):
    more = ["--output-dir", "out"]
    for flag in ("--" + parameter.replace("_", "-"), f"--{parameter}"):
        repeated = [word for value in values for word in (flag, value)]
        for way in ([flag, *values], [flag, ",".join(values)], [f"{flag}={','.join(values)}"], repeated):
            for arguments in (["M", *way, *more], [*way, *more, "M"], [*more, "M", *way]):
                assert typed(name, *arguments)[parameter] == (expected or values), arguments


def test_every_list_is_one_of_them():
    known = {(name, parameter) for name, parameter, _, _ in LISTS}
    lists = {
        (name, param.name) for name, each in command().commands.items() for param in each.params if param.multiple
    }
    assert {name for _, name in lists} == {name for _, name in known} | {"example"}


def test_one_that_is_not_given_is_empty_or_has_its_default():
    found = typed("benchmark", "D")
    assert (found["thresholds"], found["batch_size"]) == ([], [1, 8, 32, 128])


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        (["--labels", "science, technology", "sports"], ["science, technology", "sports"]),
        (["--labels", '"science, technology",sports'], ["science, technology", "sports"]),
        (["--labels", "-1", "1"], ["-1", "1"]),
        (["--labels", "-1,1"], ["-1", "1"]),
        (["--labels", "a b", "--no-header"], ["a b"]),
        (["--labels", "yes\n,no", "x"], ["yes\n,no", "x"]),
    ],
)
def test_names_may_hold_anything(arguments, labels):
    assert typed("evaluate", "D", *arguments)["labels"] == labels


def test_what_comes_after_a_list_may_be_the_argument():
    assert typed("evaluate", "--text-column", "words", "D")["text_column"] == ["words"]
    found = typed("benchmark", "--also", "one", "D", "--batch-size", "8", "--rows", "4")
    assert (found["also"], found["directory"], found["rows"]) == (["one"], "D", 4)
    assert typed("evaluate", "--text-column", "a", "b", "--", "D")["text_column"] == ["a", "b"]


def test_sentences_keep_their_commas():
    found = typed("demo", "D", "--example", "good, but long", "--example", "bad", "worse")
    assert found["example"] == ["good, but long", "bad", "worse"]
    assert typed("demo", "D", "--example", "good, but long")["example"] == ["good, but long"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("evaluate D --labels", "requires an argument"),
        (
            "attach M --output-dir O --exit-layers 1,,2",
            "--exit-layers: must have a value on both sides of a comma, got",
        ),
        ("attach M --output-dir O --exit_layers 1,2 3", "--exit-layers: must be whole numbers, got '1,2'."),
        ("attach M --output-dir O --exit-layers", "requires an argument"),
        ("attach M --nothing_known 1", "No such option: --nothing-known"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, line):
    done = run(*arguments.split())
    assert (done.code, done.out) == (2, "")
    assert line in done.last
    assert len(done.err.splitlines()) == 1


def test_a_command_is_called_as_it_is_typed():
    for function in EXAMPLES:
        names = {param.name for param in command().commands[function.__name__].params}
        missing = set(inspect.signature(function).parameters) - {"data"} - names
        assert not missing
