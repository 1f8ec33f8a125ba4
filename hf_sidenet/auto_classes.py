# SPDX-License-Identifier: Apache-2.0
"""Register SideNets with transformers' Auto classes when `hf_sidenet` is imported, without importing transformers.

`import hf_sidenet` must be light, and `AutoModelForSequenceClassification.from_pretrained(folder)` must work after it
even if no name of `hf_sidenet` was ever used. All loading goes through `AutoConfig`, so one entry there is enough:
[`LazySideNetConfig`], a stand-in for [`SideNetConfig`] that imports `hf_sidenet.models` on first use. That import
registers the config and the model classes themselves.

`AutoConfig.register` adds the entry:

- immediately, if transformers' `configuration_auto` is already imported;
- otherwise right after its import: [`AfterImport`], a finder on `sys.meta_path` for that one module, lets the other
  finders find it and registers after its code has run. It imports nothing itself, so it never sees a half-imported
  module, and it stays in place, so reloading that module registers again.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


CONFIGS = "transformers.models.auto.configuration_auto"


class _Lazy(type):
    """Metaclass that forwards calls and attributes to [`SideNetConfig`], imported on first use."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _config_class()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        # Python and its tools look up special names on any class; that must not trigger an import.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_config_class(), name)


class LazySideNetConfig(metaclass=_Lazy):
    """Stand-in for [`SideNetConfig`] that `AutoConfig` holds until the real class is imported."""

    model_type = "sidenet"


def _config_class() -> type:
    from .models import SideNetConfig

    return SideNetConfig


class AfterImport(MetaPathFinder):
    """Import finder that registers SideNets after transformers' `configuration_auto` has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != CONFIGS:
            return None
        # Only finders after this one: a test or notebook that imported this file twice has two of it.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Registering(spec.loader)
                return spec
        return None


class _Registering(Loader):
    """Loader of `configuration_auto` until its code has run."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module looks as if it had been loaded the usual way.
        spec: Any = module.__spec__
        module.__loader__ = spec.loader = self.loader
        self.loader.exec_module(module)
        _register(module)


def register() -> None:
    """Register SideNets with the Auto classes, now or when transformers is imported. A second call changes nothing."""
    if not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())
    # If the parent package is present, another thread may be importing `configuration_auto` since before the finder
    # was installed: importing it here waits for that thread.
    if CONFIGS.rpartition(".")[0] in sys.modules:
        _register(importlib.import_module(CONFIGS))


def _register(configs: ModuleType) -> None:
    if LazySideNetConfig.model_type not in configs.CONFIG_MAPPING:
        configs.AutoConfig.register(LazySideNetConfig.model_type, LazySideNetConfig)
