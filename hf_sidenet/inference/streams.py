# SPDX-License-Identifier: Apache-2.0
"""Both ends of a stream: rows that are read ahead, and answers in the order of the rows."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from transformers.utils import logging

from .rows import Prediction


logger = logging.get_logger(__name__)


class Line:
    """Predictions that come in any order leave in the order of their rows."""

    def __init__(self, on_error: str, total: int | None, progress: bool):
        self.raises = on_error == "raise"
        self.place = 0
        self.failed = 0
        self._done: dict[int, Prediction] = {}
        self._bar = logging.tqdm(total=total, desc="Predicting", disable=not progress)

    def add(self, predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            self._done[prediction.place] = prediction

    def next(self) -> Iterator[Prediction]:
        while self.place in self._done:
            prediction = self._done.pop(self.place)
            if prediction.error is not None and self.raises:
                raise prediction.error
            self.failed += prediction.error is not None
            self.place += 1
            self._bar.update()
            yield prediction

    def end(self) -> None:
        self._bar.close()
        if self.failed:
            logger.warning(
                "%d of %d rows have no answer; `error` of their predictions says why.", self.failed, self.place
            )


def take(source: Iterator[Any], size: int) -> tuple[list[Any], Exception | None]:
    """The next rows, and the error at which their source broke off: those before it are answered first."""
    raw = []
    try:
        raw.extend(islice(source, size))
    except Exception as error:
        return raw, error
    return raw, None
