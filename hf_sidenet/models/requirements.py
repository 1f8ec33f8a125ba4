# SPDX-License-Identifier: Apache-2.0
"""The versions that the code of a checkpoint needs."""

from transformers.utils.versions import require_version


# The lower bounds of setup.cfg.
REQUIRED = ("torch>=2.11", "transformers>=5.17")


def check_versions() -> None:
    """Refuse older libraries.

    Raises:
        ImportError: names what is installed and what is needed.
    """
    for requirement in REQUIRED:
        name = requirement.partition(">")[0]
        require_version(requirement, f"A model with SideNets needs it: pip install --upgrade {name}")
