# SPDX-License-Identifier: Apache-2.0
"""The code of a checkpoint: is all of it there, what does it import, whose is it?"""

import ast
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import models
from .findings import Shareable


PACKAGE = Path(models.__file__).parent
# What everybody has who loads a checkpoint.
INSTALLED = {"torch", "transformers"}
# What the parser raises, of nesting that is too deep too.
BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)


def check_code(folder: Path, auto_map: Mapping[str, Any], found: Shareable) -> None:
    """Look at every file of code that would be uploaded, and at those that `auto_map` leads to.

    Args:
        folder (`Path`): the checkpoint.
        auto_map (`Mapping[str, Any]`): class by the name of its Auto class, of config and processors together.
        found ([`Shareable`]): gets what is found.
    """
    reached: set[str] = set()
    waiting = []
    for name, reference in _references(auto_map):
        if "--" in reference:
            found.warnings.append(
                f"auto_map[{name!r}] is {reference!r}: code of another repository, whose changes reach everybody who "
                "loads this checkpoint."
            )
            continue
        module, _, class_name = reference.rpartition(".")
        if not module:
            found.errors.append(f"auto_map[{name!r}] must be 'file.Class', got {reference!r}.")
            continue
        waiting.append(f"{module}.py")
        tree = _parsed(folder / f"{module}.py")
        if tree is not None and class_name not in _classes(tree):
            found.errors.append(f"auto_map[{name!r}] names {class_name}, but {module}.py has no such class.")
    while waiting:
        file = waiting.pop()
        if file in reached:
            continue
        reached.add(file)
        if file not in found.files:
            found.errors.append(f"{file} is missing: the checkpoint does not load without this code.")
            continue
        waiting += [f"{module}.py" for module in _siblings(folder / file)]
    for file in sorted(name for name in found.files if name.endswith(".py")):
        _check_file(folder, file, file in reached, found)


def _check_file(folder: Path, file: str, is_reached: bool, found: Shareable) -> None:
    path, own = folder / file, PACKAGE / file
    found.code[file] = hashlib.sha256(path.read_bytes()).hexdigest()
    if not own.is_file() or own.read_bytes() != path.read_bytes():
        found.changed_code.append(file)
        found.warnings.append(
            f"{file} is not the installed hf_sidenet's: it is of another version, or somebody changed it. Read it "
            "before you share it."
        )
    if not is_reached:
        found.warnings.append(f"{file} is uploaded, but nothing that config.json names needs it.")
        return
    try:
        ast.parse(path.read_bytes())
    except BROKEN as error:
        found.errors.append(f"{file} is no Python: {str(error) or type(error).__name__}.")
        return
    others = sorted(_imported(path) - INSTALLED - sys.stdlib_module_names)
    if others:
        found.errors.append(
            f"{file} imports {', '.join(others)}: code that travels must do with torch and transformers, which is all "
            "that others are sure to have."
        )


def _references(auto_map: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Slow and fast tokenizers come as a pair, in which one may be missing."""
    for name, value in auto_map.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                yield name, str(each)


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    # What is wrong with it is said elsewhere.
    except (OSError, *BROKEN):
        return None


def _classes(tree: ast.Module) -> set[str]:
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return defined | imported


def _siblings(path: Path) -> list[str]:
    """Modules of `from .name import x` and `from . import name`."""
    names = []
    for node in _statements(_parsed(path)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names += [node.module.replace(".", "/")] if node.module else [alias.name for alias in node.names]
    return names


def _imported(path: Path) -> set[str]:
    """Top-level packages that a file cannot do without."""
    names = set()
    for node in _statements(_parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def _statements(node: ast.AST | None) -> Iterator[ast.AST]:
    """All of it but what is tried: an import that may fail has a way without."""
    waiting = [] if node is None else [node]
    while waiting:
        for child in _children(waiting.pop()):
            yield child
            waiting.append(child)


def _children(node: ast.AST) -> Iterable[ast.AST]:
    return [*node.handlers, *node.orelse, *node.finalbody] if isinstance(node, ast.Try) else ast.iter_child_nodes(node)
