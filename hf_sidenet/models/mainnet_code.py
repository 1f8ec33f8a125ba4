# SPDX-License-Identifier: Apache-2.0
"""MainNets whose code transformers does not have: it travels with the checkpoint, and runs only with the user's word.

A config records the classes and the SHA-256 of each file, so that other code than the recorded is never run. What was
once run in a process stays known there, as in transformers.
"""

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module, get_relative_import_files
from transformers.utils.hub import cached_file

from .errors import ArgumentError
from .transformers_private import AutoClass, new_model
from .wrapped_network import FACTORY, is_network, new_network


# Files that every checkpoint has.
HERE = Path(__file__).parent
FILE = re.compile(r"[A-Za-z_]\w*\.py")
REFERENCE = re.compile(r"[A-Za-z_]\w*\.[A-Za-z_]\w*")
DIGEST = re.compile(r"[0-9a-f]{64}")
AUTO_CONFIG = "AutoConfig"


@dataclass(frozen=True)
class MainNetCode:
    """Code of one MainNet.

    Args:
        names (`dict[str, str]`): `"file.Class"` by Auto class, as in an `auto_map`, without AutoConfig if the config
            is of transformers; or `"file.function"` that builds a [wrapped network](NetworkConfig), as `"factory"`.
        files (`dict[str, bytes]`): content by file name.
        objects (`dict[str, Any]`): the classes, that of the config too, or the function.
    """

    names: dict[str, str]
    files: dict[str, bytes]
    objects: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return what a [`SideNetConfig`] stores as `mainnet_code`."""
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        return {"names": dict(self.names), "files": digests}


class UnreadConfig(PretrainedConfig):
    """Config of a MainNet whose own code has not been run: every field as it is stored."""

    def __init__(self, **kwargs: Any):
        self.stored_type = kwargs.pop("model_type", None)
        super().__init__(**kwargs)
        # Read where the class of a config would have it.
        self.model_type = self.stored_type  # pyright: ignore[reportAttributeAccessIssue]  read like a class attribute

    def to_dict(self) -> dict[str, Any]:
        """See [`PretrainedConfig.to_dict`]."""
        fields = super().to_dict()
        fields["model_type"] = fields.pop("stored_type")
        return fields


def is_unread(config: PretrainedConfig) -> bool:
    """Return whether this is an [`UnreadConfig`]: a checkpoint's own code may have a copy of that class."""
    return "stored_type" in vars(config)


# Code that was run in this process, by what configs record of it.
_RUN: dict[str, MainNetCode] = {}


def known_code(record: dict[str, Any]) -> MainNetCode | None:
    """Return code that was run in this process, or `None`.

    Args:
        record (`dict`): `mainnet_code` of a [`SideNetConfig`].
    """
    return _RUN.get(json.dumps(record, sort_keys=True))


def _remember(code: MainNetCode) -> MainNetCode:
    return _register(_RUN.setdefault(json.dumps(code.record(), sort_keys=True), code))


def needs_code(mainnet: PreTrainedModel) -> bool:
    """Return whether transformers lacks the class of a MainNet or of its config, and so does this package."""
    if is_network(mainnet.config):
        return False
    return not (_is_transformers(type(mainnet)) and _is_transformers(type(mainnet.config)))


def _is_transformers(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "transformers"


def code_of(auto_class: AutoClass, mainnet: PreTrainedModel) -> MainNetCode:
    """Read the code of a MainNet, to be written with checkpoints.

    Args:
        auto_class (`type`): Auto class of the task.
        mainnet (`PreTrainedModel`): the MainNet.

    Raises:
        ValueError: the code is in no file, in files that need others above their folder, or in a file that is named
            as one of this package.
    """
    objects = {auto_class.__name__: type(mainnet), AUTO_CONFIG: type(mainnet.config)}
    names, files = {}, {}
    for name, kind in objects.items():
        if name == AUTO_CONFIG and _is_transformers(kind):
            continue
        path = _file_of(kind)
        names[name] = f"{path.stem}.{kind.__name__}"
        for found in _needed(path, kind.__name__):
            content = found.read_bytes()
            if files.setdefault(found.name, content) != content:
                raise ArgumentError("mainnet", f"must not have code in two files named {found.name!r}", kind.__name__)
    return _remember(MainNetCode(names, files, objects))


def factory_code(code: str) -> MainNetCode:
    """Run a file of the user's own, and take its function that builds a network.

    Args:
        code (`str`): `"path/to/my_net.py:build"`.

    Raises:
        ValueError: there is no such file or function, or its files cannot travel.
    """
    path, _, function = code.rpartition(":")
    file = Path(path)
    if not file.is_file() or REFERENCE.fullmatch(f"{file.stem}.{function}") is None:
        raise ArgumentError("code", "must name a function in a file, as 'my_net.py:build'", code)
    names = {FACTORY: f"{file.stem}.{function}"}
    files = {found.name: found.read_bytes() for found in _needed(file, function)}
    try:
        objects = {FACTORY: get_class_from_dynamic_module(names[FACTORY], str(file.parent))}
    except AttributeError as error:
        raise ArgumentError("code", f"must name a function, but {file.name} has no {function!r}", code) from error
    return _remember(MainNetCode(names, files, objects))


def name_factory(mainnet: PreTrainedModel, code: str, trusted: bool) -> MainNetCode:
    """Name the function that builds a wrapped network in its config.

    Args:
        mainnet (`PreTrainedModel`): the wrapped network.
        code (`str`): see [`factory_code`].
        trusted (`bool`): whether the user gave the word that this code may travel, and run.

    Raises:
        ValueError: it is no wrapped network, or there was no word.
    """
    if not is_network(mainnet.config):
        raise ArgumentError("code", "must be given only for a network that is not from transformers", code)
    if not trusted:
        raise ArgumentError(
            "trust_remote_code",
            "must be True with `code`: the file travels with checkpoints, and runs wherever one is loaded",
        )
    found = factory_code(code)
    mainnet.config.factory = found.names[FACTORY]
    return found


def _register(code: MainNetCode) -> MainNetCode:
    """Let `model.mainnet.save_pretrained` take the code along too, as transformers does for remote code."""
    for name, kind in code.objects.items():
        if name == AUTO_CONFIG and name in code.names:
            kind.register_for_auto_class()
        elif name not in (AUTO_CONFIG, FACTORY):
            kind.register_for_auto_class(name)
    return code


def _file_of(kind: type) -> Path:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__ == "__main__" or kind.__qualname__ != kind.__name__ or file is None:
        raise ArgumentError(
            "mainnet",
            "must have its classes at the top of a file that can be imported, which travels with the checkpoint",
            f"{kind.__module__}.{kind.__qualname__}",
        )
    return Path(file)


def _needed(path: Path, what: str) -> list[Path]:
    """Return the file of a class or function, and those that it imports from its folder."""
    try:
        files = [path, *map(Path, get_relative_import_files(path))]
        outside = [file for file in files if file.parent != path.parent or FILE.fullmatch(file.name) is None]
    # It also looks for files of packages above, under names that none has.
    except OSError as error:
        outside = [Path(error.filename)]
    if outside:
        raise ArgumentError(
            "mainnet",
            "must have its code in files of one folder that import each other as `from .name import`, but that of "
            f"{what} also needs {outside[0].name!r}",
        )
    for file in files:
        own = HERE / file.name
        if own.exists() and own.read_bytes() != file.read_bytes():
            raise ArgumentError(
                "mainnet", f"must not have code in a file named {file.name!r}, as this package has: rename that file"
            )
    return files


def run_code(path: Any, **hub_kwargs: Any) -> None:
    """Run the MainNet's own code that a checkpoint brings, if it does. Call it only with the user's word.

    Args:
        path (`str`): folder or Hub id of a checkpoint with SideNets.
        hub_kwargs (`Any`): `revision`, `token`, `cache_dir`, ... as in `from_pretrained`.

    Raises:
        ValueError: a file differs from what config.json records.
    """
    fields, _ = PretrainedConfig.get_config_dict(path, **hub_kwargs)
    record = fields.get("mainnet_code") if isinstance(fields, dict) else None
    if record is None or known_code(check_record(record)) is not None:
        return
    files = {}
    for name, digest in record["files"].items():
        file = cached_file(path, name, **hub_kwargs)
        assert file is not None  # It raises where a file is missing.
        files[name] = Path(file).read_bytes()
        found = hashlib.sha256(files[name]).hexdigest()
        if found != digest:
            raise ArgumentError(
                "mainnet_code", f"of config.json must fit the files: {name} must have SHA-256 {digest}", found
            )
    names = record["names"]
    (main,) = set(names) - {AUTO_CONFIG}
    found: Any = get_class_from_dynamic_module(names[main], str(path), **hub_kwargs)
    objects = {main: found}
    if AUTO_CONFIG in names:
        # The class that the model's own file imports: transformers may hold that file twice.
        kind = getattr(found, "config_class", None)
        if getattr(kind, "__name__", None) != names[AUTO_CONFIG].partition(".")[2]:
            kind = get_class_from_dynamic_module(names[AUTO_CONFIG], str(path), **hub_kwargs)
        objects[AUTO_CONFIG] = kind
    _remember(MainNetCode(names, files, objects))


def new_mainnet(auto_class: AutoClass, config: PretrainedConfig, record: dict[str, Any] | None) -> PreTrainedModel:
    """Build a MainNet with random weights.

    Args:
        auto_class (`type`): Auto class of the task.
        config (`PretrainedConfig`): config of the MainNet.
        record (`dict`, *optional*): `mainnet_code` of the [`SideNetConfig`].

    Raises:
        ValueError: its code has not been run, or it is a network that cannot be built again.
    """
    code = None if record is None else known_code(record)
    if record is not None and code is None:
        raise ValueError(
            f"the MainNet of this checkpoint runs its own code ({', '.join(record['files'])}), which can do anything "
            "on this machine: read it, and pass `trust_remote_code=True` if you trust it."
        )
    if is_network(config):
        network: Any = config
        return new_network(auto_class.__name__, network, None if code is None else code.objects[FACTORY])
    if code is None:
        model: Any = auto_class.from_config(config)
        return model
    return new_model(code.objects[auto_class.__name__], config)


def read_config(fields: Mapping[str, Any], record: dict[str, Any]) -> PretrainedConfig | None:
    """Return the config of a MainNet with code of its own; `None` if transformers has the class of the config.

    Args:
        fields (`Mapping[str, Any]`): contents of its config.json.
        record (`dict`): `mainnet_code` of the [`SideNetConfig`].
    """
    if AUTO_CONFIG not in record["names"]:
        return None
    code = known_code(record)
    kind: type[PretrainedConfig] = UnreadConfig if code is None else code.objects[AUTO_CONFIG]
    return kind.from_dict(dict(fields))


def write_code(record: dict[str, Any], directory: Any) -> None:
    """Write the code of a MainNet into a checkpoint.

    Args:
        record (`dict`): `mainnet_code` of the [`SideNetConfig`].
        directory (`str`): the checkpoint.
    """
    code = known_code(record)
    assert code is not None  # There is a MainNet.
    for name, content in code.files.items():
        (Path(directory) / name).write_bytes(content)


def check_record(record: Any) -> dict[str, Any]:
    """Check `mainnet_code` of a [`SideNetConfig`], which may come from anyone.

    Raises:
        ValueError: it is not what [`MainNetCode.record`] returns.
    """
    parts = record if isinstance(record, dict) and set(record) == {"names", "files"} else {}
    names, files = parts.get("names"), parts.get("files")
    if (
        not isinstance(names, dict)
        or not isinstance(files, dict)
        or len(set(names) - {AUTO_CONFIG}) != 1
        or not all(isinstance(name, str) and REFERENCE.fullmatch(str(value)) for name, value in names.items())
        or not all(FILE.fullmatch(str(name)) and DIGEST.fullmatch(str(value)) for name, value in files.items())
        or not all(f"{value.partition('.')[0]}.py" in files for value in names.values())
    ):
        raise ArgumentError(
            "mainnet_code", "must have `names`, 'file.Class' by Auto class, and `files`, SHA-256 by name", record
        )
    return parts
