# SPDX-License-Identifier: Apache-2.0
"""Running a MainNet with SideNets fast: stages, the runner that fills its batches, and exports."""

from .stages import Stages


__all__ = ["Stages"]
