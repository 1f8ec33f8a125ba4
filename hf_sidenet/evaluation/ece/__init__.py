# SPDX-License-Identifier: Apache-2.0
"""Folder for `evaluate.load`. Imports nothing, since `evaluate` is optional."""
