# SPDX-License-Identifier: Apache-2.0
"""What an answer is."""

# What forward takes beside the MainNet's inputs.
LABEL_INPUTS = frozenset({"labels", "mainnet_logits"})
