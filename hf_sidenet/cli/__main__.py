# SPDX-License-Identifier: Apache-2.0
"""`python -m hf_sidenet.cli`: the same as `hf-sidenet`."""

import sys

from . import main


if __name__ == "__main__":
    sys.exit(main())
