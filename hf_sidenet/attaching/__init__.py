# SPDX-License-Identifier: Apache-2.0
"""Turn a classifier into a calibrated early-exit checkpoint, and evaluate or recalibrate that checkpoint."""
