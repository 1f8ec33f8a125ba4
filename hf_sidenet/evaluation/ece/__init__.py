# SPDX-License-Identifier: Apache-2.0
"""The folder that `evaluate.load` takes. Nothing is imported here: `evaluate` is optional."""
