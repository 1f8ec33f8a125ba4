# SPDX-License-Identifier: Apache-2.0
"""Write files and folders atomically, check documents, and fingerprint contents."""
