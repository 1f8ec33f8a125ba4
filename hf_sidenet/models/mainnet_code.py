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
        classes (`dict[str, str]`): `"file.Class"` by Auto class, as in an `auto_map`; no AutoConfig if the config is
            of transformers.
        files (`dict[str, bytes]`): content by file name.
        kind (`type[PreTrainedModel]`): the class of the model.
        config_kind (`type[PretrainedConfig]`): the class of its config.
    """

    classes: dict[str, str]
    files: dict[str, bytes]
    kind: type[PreTrainedModel]
    config_kind: type[PretrainedConfig]

    def record(self) -> dict[str, Any]:
        """Return what a [`SideNetConfig`] stores as `mainnet_code`."""
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in self.files.items()}
        return {"classes": dict(self.classes), "files": digests}


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
    return _RUN.setdefault(json.dumps(code.record(), sort_keys=True), code)


def needs_code(mainnet: PreTrainedModel) -> bool:
    """Return whether transformers lacks the class of a MainNet or of its config."""
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
    kind, config_kind = type(mainnet), type(mainnet.config)
    classes, files = {}, {}
    for name, each in ((auto_class.__name__, kind), (AUTO_CONFIG, config_kind)):
        if name == AUTO_CONFIG and _is_transformers(each):
            continue
        path = _file_of(each)
        classes[name] = f"{path.stem}.{each.__name__}"
        for found in _needed(path, each):
            content = found.read_bytes()
            if files.setdefault(found.name, content) != content:
                raise ArgumentError("mainnet", f"must not have code in two files named {found.name!r}", kind.__name__)
    _register(auto_class.__name__, kind, config_kind if AUTO_CONFIG in classes else None)
    return _remember(MainNetCode(classes, files, kind, config_kind))


def _register(auto_name: str, kind: type[PreTrainedModel], config_kind: type[PretrainedConfig] | None) -> None:
    """Let `model.mainnet.save_pretrained` take the code along too, as transformers does for remote code."""
    kind.register_for_auto_class(auto_name)
    if config_kind is not None:
        config_kind.register_for_auto_class()


def _file_of(kind: type) -> Path:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if kind.__module__ == "__main__" or kind.__qualname__ != kind.__name__ or file is None:
        raise ArgumentError(
            "mainnet",
            "must have its classes at the top of a file that can be imported, which travels with the checkpoint",
            f"{kind.__module__}.{kind.__qualname__}",
        )
    return Path(file)


def _needed(path: Path, kind: type) -> list[Path]:
    """Return the file of a class and those that it imports from its folder."""
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
            f"{kind.__name__} also needs {outside[0].name!r}",
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
    (auto_name,) = set(record["classes"]) - {AUTO_CONFIG}
    kind: Any = get_class_from_dynamic_module(record["classes"][auto_name], str(path), **hub_kwargs)
    config_kind: Any = kind.config_class
    reference = record["classes"].get(AUTO_CONFIG)
    # The class that the model's own file imports: transformers may hold that file twice.
    if reference is not None and getattr(config_kind, "__name__", None) != reference.partition(".")[2]:
        config_kind = get_class_from_dynamic_module(reference, str(path), **hub_kwargs)
    _register(auto_name, kind, None if reference is None else config_kind)
    _remember(MainNetCode(record["classes"], files, kind, config_kind))


def new_mainnet(auto_class: AutoClass, config: PretrainedConfig, record: dict[str, Any] | None) -> PreTrainedModel:
    """Build a MainNet with random weights.

    Args:
        auto_class (`type`): Auto class of the task.
        config (`PretrainedConfig`): config of the MainNet.
        record (`dict`, *optional*): `mainnet_code` of the [`SideNetConfig`].

    Raises:
        ValueError: its code has not been run.
    """
    if record is None:
        model: Any = auto_class.from_config(config)
        return model
    code = known_code(record)
    if code is None:
        raise ValueError(
            f"the MainNet of this checkpoint runs its own code ({', '.join(record['files'])}), which can do anything "
            "on this machine: read it, and pass `trust_remote_code=True` if you trust it."
        )
    return new_model(code.kind, config)


def read_config(fields: Mapping[str, Any], record: dict[str, Any]) -> PretrainedConfig | None:
    """Return the config of a MainNet with code of its own; `None` if transformers has the class of the config.

    Args:
        fields (`Mapping[str, Any]`): contents of its config.json.
        record (`dict`): `mainnet_code` of the [`SideNetConfig`].
    """
    if AUTO_CONFIG not in record["classes"]:
        return None
    code = known_code(record)
    return (UnreadConfig if code is None else code.config_kind).from_dict(dict(fields))


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
    parts = record if isinstance(record, dict) and set(record) == {"classes", "files"} else {}
    classes, files = parts.get("classes"), parts.get("files")
    if (
        not isinstance(classes, dict)
        or not isinstance(files, dict)
        or len(set(classes) - {AUTO_CONFIG}) != 1
        or not all(isinstance(name, str) and REFERENCE.fullmatch(str(value)) for name, value in classes.items())
        or not all(FILE.fullmatch(str(name)) and DIGEST.fullmatch(str(value)) for name, value in files.items())
        or not all(f"{value.partition('.')[0]}.py" in files for value in classes.values())
    ):
        raise ArgumentError(
            "mainnet_code", "must have `classes`, 'file.Class' by Auto class, and `files`, SHA-256 by name", record
        )
    return parts
