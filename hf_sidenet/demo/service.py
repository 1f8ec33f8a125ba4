# SPDX-License-Identifier: Apache-2.0
"""Service behind the demo page."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from threading import Event, Lock
from typing import Any, cast

import torch

from ..attaching.checkpoint import load_checkpoint
from ..calibration.label_checks import Answered, ClassOrderError, check_class_order
from ..data.classes import ClassMap, match_classes, spelled
from ..inference import SideNetRunner
from ..inference.certificate import length_of, why_not_certified
from ..inference.engine import RowError
from ..inference.rows import Prediction
from ..models.tasks import label_names
from ..report import Report
from .answering import Answering
from .batch_files import Upload, UploadError, check_text, read_picture, read_pictures, read_table, write_answers
from .dial import read_dial
from .html import answer_html, batch_html, curve_html, dial_html, picture_html


# Smaller for pictures, which may be large until they are model inputs.
BATCH_SIZE, NUM_PICTURES = 32, 8
NEW_COLUMNS = ("predicted", "confidence", "exit", "flops", "error")


def _not_compared(error: ValueError) -> str:
    return f"Not compared with the classes in the file: {error}"


class Demo:
    """Checkpoint that answers visitors.

    Args:
        checkpoint (`str`): folder or Hub id of a checkpoint with SideNets.
        is_pair (`bool`, *optional*, defaults to `False`): whether a row is a pair of texts.
        labels (`Sequence[str]`, *optional*):
            Names of the checkpoint's outputs in files, in order; see [`match_classes`].
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether the MainNet's own code may run.

    Raises:
        ValueError: the checkpoint has no SideNets, is damaged, or does not take pairs.
    """

    def __init__(
        self,
        checkpoint: str,
        is_pair: bool = False,
        labels: Sequence[str] | None = None,
        trust_remote_code: bool = False,
    ):
        model, processor = load_checkpoint(checkpoint, check=False, trust_remote_code=trust_remote_code)
        if is_pair and not model.modality.has_tokens:
            raise ValueError(f"`is_pair` must be False for {checkpoint!r}, which reads pictures, got True.")
        report = Report.load(checkpoint)
        max_length, flops = report.max_length(), report.fractions("flops")
        self.reads_texts, self.is_pair = model.modality.has_tokens, is_pair
        self.classes, self.labels = label_names(model.config), labels
        self.dial = read_dial(model.config, report)
        self.not_certified = why_not_certified(model, processor, length_of(model, processor, max_length))
        self.answering = Answering(model, processor, flops, max_length)
        batch_size = BATCH_SIZE if self.reads_texts else NUM_PICTURES
        self.runner = SideNetRunner(model, processor, batch_size, max_length=max_length)
        self._stopping, self._working = Event(), Lock()
        self.curve: Callable[[int], str] = cache(lambda index: curve_html(self.dial, index))

    def move(self, index: float) -> tuple[str, str]:
        """Return θ in words, and on the curve."""
        place = self._place(index)
        return dial_html(self.dial, place, self.not_certified), self.curve(place)

    def answer(self, index: float, *given: str | None) -> str:
        """Answer the visitor's input: a text, two texts, or the path of a picture."""
        shown = ""
        if not self.reads_texts:
            row = read_picture(given[0])
            shown = picture_html(row)
        elif self.is_pair:
            row = (check_text(given[0], "the first text"), check_text(given[1], "the second text"))
        else:
            row = check_text(given[0])
        return shown + answer_html(self.answering(row, self._thresholds(index)))

    def again(self, index: float, *given: str | None) -> str:
        """Repeat [`answer`] after θ has moved; ignore missing input, and errors already shown."""
        try:
            return self.answer(index, *given) if all(given) else ""
        except (UploadError, RowError):
            return ""

    def stop(self) -> None:
        """Stop the current batch, and wait for it."""
        self._stopping.set()
        with self._working:
            pass

    def batch(self, index: float, given: Any, folder: Path, tick: Callable[[int, int], None]) -> tuple[str, Path]:
        """Answer a file of rows.

        Args:
            index (`float`): index of the setting.
            given (`str` or `list[str]`): path of a table, or paths of pictures.
            folder (`Path`): folder for the answers.
            tick (`Callable`): called with the number of finished rows and of all rows.
        """
        batch = read_table(given, self.is_pair) if self.reads_texts else read_pictures(given)
        thresholds = self._thresholds(index)
        flops, names = self.answering.flops, self.answering.names
        answers: list[Sequence[Any]] = []
        exits: Counter[int] = Counter()
        failed = 0
        known: list[tuple[int, int]] = []
        classes, note = self._classes(batch)
        for done, prediction in enumerate(self._predictions(batch, thresholds), 1):
            tick(done, len(batch.cells))
            if prediction.error is not None:
                failed += 1
                answers.append(("", "", "", "", str(prediction.error)))
                continue
            exit_index, label_id = cast(int, prediction.exit_index), cast(int, prediction.label_id)
            exits[exit_index] += 1
            confidence = f"{prediction.confidence:.6f}"
            answers.append((prediction.label, confidence, names[exit_index], f"{flops[exit_index]:.4f}", ""))
            if classes is None or batch.labels is None:
                continue
            label = spelled(batch.labels[prediction.place])
            if label is not None:
                known.append((label_id, classes.indices[label]))
        path = folder / "answers.csv"
        write_answers(path, batch, answers, NEW_COLUMNS)
        answered = exits.total()
        mean = sum(flops[i] * count for i, count in exits.items()) / answered if answered else None
        counts = [exits[i] for i in range(len(names))]
        right = None
        if classes is not None and known:
            rows = Answered("answered", *torch.tensor(known).T)
            try:
                check_class_order([rows], classes)
                right = int((rows.answers == rows.labels).sum()), len(rows)
            except ClassOrderError as error:
                note = _not_compared(error)
        return batch_html(names, counts, mean, failed, right, note), path

    def _predictions(self, batch: Upload, thresholds: Sequence[float]) -> Iterator[Prediction]:
        with self._working:
            for prediction in self.runner.predict(batch.rows, list(thresholds)):
                if self._stopping.is_set():
                    raise UploadError("The server is shutting down.")
                yield prediction

    def _classes(self, batch: Upload) -> tuple[ClassMap | None, str | None]:
        """Return the classes of a file's labels, or why they are unknown."""
        labels = {label for label in map(spelled, batch.labels or ()) if label is not None}
        if not labels:
            return None, None
        try:
            return match_classes(sorted(labels), self.classes, labels=self.labels), None
        except ValueError as error:
            return None, _not_compared(error)

    def _place(self, index: float) -> int:
        # API clients may send anything.
        last = len(self.dial.positions) - 1
        if not (isinstance(index, int | float) and 0 <= index <= last):
            raise UploadError(f"θ must be one of the settings 0 to {last}, got {index!r}.")
        return round(index)

    def _thresholds(self, index: float) -> tuple[float, ...]:
        return self.dial.positions[self._place(index)].thresholds
