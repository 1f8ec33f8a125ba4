# SPDX-License-Identifier: Apache-2.0
"""Is a checkpoint folder fit to be shared? Looked at before it is pushed, without any network."""

from .check import check_shareable
from .findings import Shareable


__all__ = ["Shareable", "check_shareable"]
