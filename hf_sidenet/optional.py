# SPDX-License-Identifier: Apache-2.0
"""Optional dependencies, imported where needed; the error names the `pip install` command."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module (`str`): name to import, such as `"matplotlib.figure"`.
        extra (`str`): extra of this package that installs it, such as `"plots"`.

    Raises:
        ImportError: it is not installed. An import error *inside* the dependency passes through unchanged.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise ImportError(f'This needs {top}: pip install "hf_sidenet[{extra}]"', name=top) from error
