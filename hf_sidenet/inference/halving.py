# SPDX-License-Identifier: Apache-2.0
"""One row must never take others with it: what fails for many at once is done for fewer."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any


def halved(items: Sequence[Any], run: Callable[[Sequence[Any]], Any]) -> Iterator[tuple[Sequence[Any], Any]]:
    """Do something for many items at once. Where it fails it is done for each half, down to the item that stands alone
    with its error; what is too much for the memory fits then.

    Args:
        items (`Sequence`): a list or a range.
        run (`Callable[[Sequence], Any]`): takes some of the items.

    Yields:
        `tuple[Sequence, Any]`: some items, and what `run` returned for them; or one item and the exception.
    """
    waiting = [items] if len(items) else []
    while waiting:
        part = waiting.pop()
        try:
            outcome = run(part)
        except Exception as error:
            outcome = error
        if len(part) > 1 and isinstance(outcome, Exception):
            middle = len(part) // 2
            waiting += [part[middle:], part[:middle]]
            # Its frames hold the tensors of the call that failed.
            del outcome
        else:
            yield part, outcome
