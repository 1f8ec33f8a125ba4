# SPDX-License-Identifier: Apache-2.0
"""Docstrings in the form of transformers become types, defaults, shapes and links."""

from pathlib import Path

import griffe
import pytest


EXTENSION = Path(__file__).parents[2] / "docs/_extensions/transformers_docstrings.py"
CODE = '''
"""A module about [`Head`] and [`elsewhere`]."""

from dataclasses import dataclass
from typing import Any

WAIT = 10.0


@dataclass
class Head:
    """One head; see [`~Head.run`].

    Args:
        width (`int`): its width.
        loss (`torch.Tensor` of shape `()`, *optional*, returned when `labels` is given): of the batch.

    ```python
    >>> head  # a list of [`Head`]
    ```
    """

    width: int
    loss: "torch.Tensor | None" = None

    def run(self, rows: Any, wait: float = WAIT, head=None, labels: list[str] | None = None, **more: Any) -> list[int]:
        """Run it, as [`run`] says.

        Args:
            rows ([`Head`] or [`Tail`]): what runs.
            wait (`float`, *optional*, defaults to 10): how long.
            head (tokenizer or image processor, *optional*): for texts.
            labels (`list[str]`, *optional*, defaults to the names of the MainNet): names
            more (`Any`): of [`Tail`].

        Returns:
            `list[int]` of shape `(num_rows,)`: one per row,
            in their order.

        Raises:
            Failed: never.
        """

    def plain(self) -> int:
        """Returns without a type.

        Returns:
            The number: of rows.
        """
'''
OTHER = '''
class Tail:
    """The other end."""


class Failed(ValueError):
    """It failed."""
'''


@pytest.fixture(scope="module")
def package():
    options = {"returns_multiple_items": False, "warnings": False}
    with griffe.temporary_visited_package(
        "sample",
        {"__init__.py": "", "heads.py": CODE, "tails.py": OTHER},
        extensions=griffe.load_extensions("dataclasses", str(EXTENSION)),
        docstring_parser="google",
        docstring_options=options,
    ) as made:
        yield made


def section(documented, kind):
    return next(section.value for section in documented.docstring.parsed if section.kind.value == kind)


def text(documented):
    return "".join(section.value for section in documented.docstring.parsed if section.kind.value == "text")


def test_types_are_those_of_the_code(package):
    rows, wait, head, labels, more = section(package["heads.Head.run"], "parameters")
    assert [str(one.annotation) for one in (wait, labels, more)] == ["float", "list[str] | None", "Any"]
    # The code says nothing, so the docstring does.
    assert str(rows.annotation) == "Head | Tail"
    assert head.annotation == "tokenizer or image processor"
    width, loss = section(package["heads.Head"], "parameters")
    assert (str(width.annotation), str(loss.annotation)) == ("int", "torch.Tensor | None")


def test_names_that_the_module_does_not_import_are_found(package):
    rows = section(package["heads.Head.run"], "parameters")[0]
    paths = [name.reference_path for name in rows.annotation.iterate() if isinstance(name, griffe.ExprName)]
    assert paths == ["sample.heads.Head", "sample.tails.Tail"]
    (failed,) = section(package["heads.Head.run"], "raises")
    assert failed.annotation.reference_path == "sample.tails.Failed"


def test_defaults_are_values(package):
    _, wait, head, labels, more = section(package["heads.Head.run"], "parameters")
    assert (wait.value, wait.description) == ("10", "how long.")
    assert (head.value, head.description) == ("None", "for texts.")
    assert (labels.value, labels.description) == (None, "names. Defaults to the names of the MainNet.")
    assert more.value is None


def test_shapes_are_told(package):
    _, loss = section(package["heads.Head"], "parameters")
    assert loss.description == "Shape `()`; returned when `labels` is given: of the batch."
    (returned,) = section(package["heads.Head.run"], "returns")
    assert str(returned.annotation) == "list[int]"
    assert returned.description == "Shape `(num_rows,)`: one per row,\nin their order."


def test_what_is_returned_may_have_a_colon(package):
    (returned,) = section(package["heads.Head.plain"], "returns")
    assert (str(returned.annotation), returned.description) == ("int", "The number: of rows.")


def test_names_in_brackets_become_links(package):
    assert text(package["heads"]) == (
        'A module about <autoref identifier="sample.heads.Head" optional>`Head`</autoref> and `elsewhere`.'
    )
    assert 'see <autoref identifier="sample.heads.Head.run" optional>`run`</autoref>.' in text(package["heads.Head"])
    more = section(package["heads.Head.run"], "parameters")[-1]
    assert more.description == 'of <autoref identifier="sample.tails.Tail" optional>`Tail`</autoref>.'


def test_code_is_left_alone(package):
    assert "a list of [`Head`]" in text(package["heads.Head"])
