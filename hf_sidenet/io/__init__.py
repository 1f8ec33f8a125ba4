# SPDX-License-Identifier: Apache-2.0
"""Files and folders, written atomically; fields read with checks; fingerprints of what is in them."""
