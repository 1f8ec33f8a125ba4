# SPDX-License-Identifier: Apache-2.0
"""From a classifier to a calibrated early-exit checkpoint, and what is done with that checkpoint afterward."""
