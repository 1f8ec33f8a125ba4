# SPDX-License-Identifier: Apache-2.0
"""Makes transformers' Auto classes know SideNets as soon as `hf_sidenet` is imported, without importing transformers.

`import hf_sidenet` has to be light, and `AutoModelForSequenceClassification.from_pretrained(folder)` has to work after
it even if no name of `hf_sidenet` was ever touched. All loading goes through `AutoConfig`, so one entry there is
enough: [`LazySideNetConfig`], which stands for [`SideNetConfig`] and imports `hf_sidenet.models` when it is first
used. That import registers the config and the model classes themselves.

The entry is made by `AutoConfig.register`:

- at once, where transformers' `configuration_auto` has been imported already;
- else as soon as it is: [`AfterImport`], a finder on `sys.meta_path` for that one module, lets the other finders find
  it and registers after its code has run. It imports nothing itself, so it cannot meet a half-imported module, and
  it stays in place, so that a reload of that module registers again.
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
    """A class that is another one as soon as something is asked of it."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        return _config_class()(*args, **kwargs)

    def __getattr__(cls, name: str) -> Any:
        # Python and its tools look for special names in any class, and must not cause an import by it.
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_config_class(), name)


class LazySideNetConfig(metaclass=_Lazy):
    """[`SideNetConfig`], imported when it is used: what `AutoConfig` knows until then."""

    model_type = "sidenet"


def _config_class() -> type:
    from .models import SideNetConfig

    return SideNetConfig


class AfterImport(MetaPathFinder):
    """Finds transformers' `configuration_auto` as the other finders do, and registers SideNets when it has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname != CONFIGS:
            return None
        # Those after this one: there may be two of it where a test or a notebook imported this file twice.
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Registering(spec.loader)
                return spec
        return None


class _Registering(Loader):
    """The loader of `configuration_auto`, until its code has run."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module looks as if nobody had been in between.
        spec: Any = module.__spec__
        module.__loader__ = spec.loader = self.loader
        self.loader.exec_module(module)
        _register(module)


def register() -> None:
    """Register SideNets with the Auto classes, now or when transformers is imported. A second call changes nothing."""
    if not any(isinstance(finder, AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, AfterImport())
    # A module of this package is there from when another thread began to import `configuration_auto`, perhaps before
    # the finder stood: importing it waits for that thread.
    if CONFIGS.rpartition(".")[0] in sys.modules:
        _register(importlib.import_module(CONFIGS))


def _register(configs: ModuleType) -> None:
    if LazySideNetConfig.model_type not in configs.CONFIG_MAPPING:
        configs.AutoConfig.register(LazySideNetConfig.model_type, LazySideNetConfig)
