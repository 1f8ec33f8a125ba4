# SPDX-License-Identifier: Apache-2.0
"""Check the code and weights of a checkpoint: completeness, imports, origin, and consistency with the config."""

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.dynamic_module_utils import get_imports

from .. import models
from ..io.json import read_object
from ..models.configuration_sidenet import SideNetConfig
from .findings import Shareable
from .shared_files import PICKLED


PACKAGE = Path(models.__file__).parent
# Packages that anyone who loads a checkpoint has.
INSTALLED = {"torch", "transformers"}
# Errors of the parser, also for nesting that is too deep.
BROKEN = (SyntaxError, ValueError, RecursionError, MemoryError)

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def check_code(
    folder: Path, auto_map: Mapping[str, Any], mainnet_code: Mapping[str, Any] | None, found: Shareable
) -> None:
    """Check every code file that would be uploaded, and the files that `auto_map` and `mainnet_code` refer to.

    Args:
        folder (`Path`): the checkpoint.
        auto_map (`Mapping[str, Any]`): classes by Auto class, of config and processors together.
        mainnet_code (`Mapping[str, Any]`, *optional*): that field of the config.
        found ([`Shareable`]): collects the findings.
    """
    reached: set[str] = set()
    waiting = []
    recorded = {} if mainnet_code is None else mainnet_code["files"]
    mainnets = {} if mainnet_code is None else {f"mainnet: {k}": v for k, v in mainnet_code["names"].items()}
    for name, reference in _references({**auto_map, **mainnets}):
        if "--" in reference:
            found.warnings.append(
                f"auto_map[{name!r}] is {reference!r}: code in another repository, whose changes affect everyone who "
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
        _check_file(folder, file, file in reached, recorded.get(file), found)


def _check_file(folder: Path, file: str, is_reached: bool, recorded: str | None, found: Shareable) -> None:
    path, own = folder / file, PACKAGE / file
    found.code[file] = hashlib.sha256(path.read_bytes()).hexdigest()
    if recorded is not None:
        if found.code[file] != recorded:
            found.errors.append(
                f"{file} is code of the MainNet that was changed after SideNets were attached: its SHA-256 differs "
                "from `mainnet_code` in config.json."
            )
    elif not own.is_file() or own.read_bytes() != path.read_bytes():
        found.changed_code.append(file)
        found.warnings.append(
            f"{file} differs from the installed hf_sidenet: it is from another version, or was changed. Read it "
            "before you share it."
        )
    if not is_reached:
        found.warnings.append(f"{file} is uploaded, but nothing in config.json needs it.")
        return
    try:
        imported = get_imports(path)
    except BROKEN as error:
        found.errors.append(f"{file} is not valid Python: {str(error) or type(error).__name__}.")
        return
    others = sorted({*imported} - INSTALLED - sys.stdlib_module_names)
    if others and recorded is not None:
        found.notes.append(f"the MainNet's own code imports {', '.join(others)}, which others have to install.")
    elif others:
        found.errors.append(
            f"{file} imports {', '.join(others)}: a checkpoint's code must need only torch and transformers, because "
            "others may not have anything else."
        )


def _references(auto_map: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the references of an `auto_map`. Slow and fast tokenizers form a pair, in which one may be missing."""
    for name, value in auto_map.items():
        for each in value if isinstance(value, list) else [value]:
            if each is not None:
                yield name, str(each)


def _parsed(path: Path) -> ast.Module | None:
    try:
        return ast.parse(path.read_bytes())
    # Reported elsewhere.
    except (OSError, *BROKEN):
        return None


def _classes(tree: ast.Module) -> set[str]:
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return defined | imported


def _siblings(path: Path) -> list[str]:
    """Return the modules in `from .name import x` and `from . import name`."""
    names = []
    tree = _parsed(path)
    for node in () if tree is None else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            names += [node.module.replace(".", "/")] if node.module else [alias.name for alias in node.names]
    return names


def check_weights(folder: Path, config: SideNetConfig | None, found: Shareable) -> None:
    """Read the names of all weights, and compare them with the config.

    Args:
        folder (`Path`): the checkpoint.
        config ([`SideNetConfig`], *optional*): its config; `None` if it cannot be read.
        found ([`Shareable`]): collects the findings.
    """
    pickled = [name for name in found.left_out if "/" not in name and name.lower().endswith(PICKLED)]
    if WEIGHTS in found.files:
        names = _names(folder, WEIGHTS, found)
    elif INDEX in found.files:
        names = _sharded_names(folder, found)
    else:
        instead = (
            f" {', '.join(pickled)}: pickled, never uploaded, because loading it can run code. Load it here and save "
            "it again with save_pretrained."
            if pickled
            else ""
        )
        found.errors.append(f"there are no weights: {WEIGHTS} is missing.{instead}")
        return
    if pickled:
        found.notes.append(f"{', '.join(pickled)}: pickled, not uploaded.")
    if names is None or config is None:
        return
    num_sidenets = len({name.split(".")[1] for name in names if name.startswith("sidenets.")})
    if num_sidenets != len(config.exit_layers):
        found.errors.append(
            f"the weights have {num_sidenets} SideNets, but config.json has {len(config.exit_layers)} `exit_layers`."
        )
    if not any(name.startswith("mainnet.") for name in names):
        found.errors.append("the weights have no MainNet: no name starts with 'mainnet.'.")


def _names(folder: Path, file: str, found: Shareable) -> set[str] | None:
    try:
        with safe_open(folder / file, framework="pt") as tensors:
            return set(tensors.keys())
    except (SafetensorError, OSError, ValueError) as error:
        found.errors.append(f"{file} is not a valid safetensors file: {' '.join(str(error).split())}.")
        return None


def _sharded_names(folder: Path, found: Shareable) -> set[str] | None:
    try:
        shards = read_object(folder / INDEX)["weight_map"]
        by_file: dict[str, set[str]] = {}
        for name, file in shards.items():
            if not isinstance(file, str):
                raise TypeError(f"{file!r} is not a file name")
            by_file.setdefault(file, set()).add(name)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        found.errors.append(f"{INDEX} must be JSON with a 'weight_map' from weights to files.")
        return None
    names: set[str] = set()
    for file, expected in sorted(by_file.items()):
        if file not in found.files:
            found.errors.append(f"{INDEX} names {file}, which is missing.")
            continue
        there = _names(folder, file, found)
        if there is None:
            continue
        missing = sorted(expected - there)
        if missing:
            found.errors.append(f"{file} lacks {missing[0]}, which {INDEX} lists.")
        names |= there
    return names if set(by_file) <= set(found.files) else None
