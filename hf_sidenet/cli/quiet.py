# SPDX-License-Identifier: Apache-2.0
"""What libraries say to programmers is not shown to people at a terminal."""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


# Library → level from which on it is heard. What datasets logs as an error, it also raises.
LEVELS = {"transformers": logging.ERROR, "datasets": logging.CRITICAL, "torch": logging.ERROR}


@contextmanager
def quiet() -> Iterator[None]:
    """Hide the libraries' warnings, unless Python or a library was told to show them.

    `PYTHONWARNINGS`, `TRANSFORMERS_VERBOSITY` and `DATASETS_VERBOSITY` are such.
    """
    with warnings.catch_warnings(), _levels():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


@contextmanager
def _levels() -> Iterator[None]:
    before = {}
    for library, level in LEVELS.items():
        variable = f"{library.upper()}_VERBOSITY"
        if variable in os.environ:
            continue
        if library in sys.modules:
            before[library] = logging.getLogger(library).level
        else:
            # Read once, when the library is imported.
            os.environ[variable] = logging.getLevelName(level).lower()
        logging.getLogger(library).setLevel(level)
    try:
        yield
    finally:
        for library, level in before.items():
            logging.getLogger(library).setLevel(level)
