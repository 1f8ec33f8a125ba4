# SPDX-License-Identifier: Apache-2.0
"""Verdict on whether early exits pay off here, for every batch size and overall."""

from collections.abc import Sequence
from dataclasses import dataclass

from .measures import MethodResult, SizeResult
from .methods import OURS, PLAIN, RIVAL


# A smaller lead may be noise: rounds differ by this much.
MARGIN = 1.05


@dataclass(frozen=True)
class Verdict:
    """Whether early exits pay off.

    Args:
        worth (`bool`, *optional*): `None` if no plain MainNet or none of our methods was measured.
        text (`str`): verdict and reason, as a sentence.
        left_out (`dict[str, list[int]]`): methods that are not accurate enough to count, with their batch sizes.
        sizes (`list[Verdict]`): verdicts for each batch size.
    """

    worth: bool | None
    text: str
    left_out: dict[str, list[int]]
    sizes: list["Verdict"]


@dataclass(frozen=True)
class _Place:
    """A method at a batch size."""

    batch_size: int
    result: MethodResult

    @property
    def name(self) -> str:
        return f"{self.result.name} at batch size {self.batch_size}"

    @property
    def speed(self) -> float:
        return self.result.rows_per_second


def verdict_of(sizes: Sequence[SizeResult], max_accuracy_drop: float) -> Verdict:
    """Return the verdict: "worth it here" if one of our methods is faster than its twin and than every plain MainNet
    at any measured batch size, by more than noise.

    Args:
        sizes (`Sequence[SizeResult]`): the measurements.
        max_accuracy_drop (`float`): methods, ours or plain, whose accuracy is lower than the first plain one's by more
            do not count.
    """
    each = [_verdict([size], max_accuracy_drop, f"batch size {size.batch_size}: ") for size in sizes]
    return _verdict(sizes, max_accuracy_drop, "", each)


def accurate(size: SizeResult, max_accuracy_drop: float) -> list[MethodResult]:
    """Return the methods within `max_accuracy_drop` of the first plain one, all if there is no plain one.

    Args:
        size ([`SizeResult`]): results at a batch size.
        max_accuracy_drop (`float`): fraction of the rows.
    """
    reference = next((result for result in size.methods if result.group == PLAIN), None)
    if reference is None:
        return size.methods
    lowest = reference.accuracy - max_accuracy_drop
    # The tolerance covers rounding, and is far below one row.
    return [result for result in size.methods if result.accuracy >= lowest - 1e-9]


def _verdict(
    sizes: Sequence[SizeResult], max_accuracy_drop: float, where: str, each: Sequence[Verdict] = ()
) -> Verdict:
    good = [_Place(size.batch_size, result) for size in sizes for result in accurate(size, max_accuracy_drop)]
    names = {place.name for place in good}
    left_out: dict[str, list[int]] = {}
    for size in sizes:
        for result in size.methods:
            if _Place(size.batch_size, result).name not in names:
                left_out.setdefault(result.name, []).append(size.batch_size)
    plain = [place for place in good if place.result.group == PLAIN]
    ours = [place for place in good if place.result.group == OURS and place.result.ratio is not None]
    if not plain or not ours:
        missing = "nothing of ours with a twin was accurate enough" if plain else "no plain MainNet was measured"
        return Verdict(None, f"{where}no verdict: {missing}", left_out, list(each))
    fastest = max(plain, key=lambda place: place.speed)
    winners = [place for place in ours if (place.result.ratio or 0) > MARGIN and place.speed > MARGIN * fastest.speed]
    best = max(winners or ours, key=lambda place: place.speed)
    against = f"{best.result.ratio:.2f}× its twin and {best.speed / fastest.speed:.2f}× the fastest plain MainNet"
    accuracy = f"accuracy {_percent(best)} % against {_percent(fastest)} %"
    if winners:
        text = f"worth it here: {best.name} answers {against} ({fastest.name}), at {accuracy}"
    else:
        text = (
            f"do not use here: nothing of ours is more than {100 * (MARGIN - 1):.0f} % faster than both its twin and "
            f"the fastest plain MainNet ({fastest.name}, {fastest.speed:,.0f} rows/s). The fastest of ours, "
            f"{best.name}, answers {against}, at {accuracy}"
        )
    return Verdict(bool(winners), where + text + _rivals(good, best), left_out, list(each))


def _rivals(good: Sequence[_Place], best: _Place) -> str:
    """Return a text on the fastest accurate rival if it is faster than the best of ours, else an empty string."""
    rivals = [place for place in good if place.result.group == RIVAL and place.speed > best.speed]
    if not rivals:
        return ""
    fastest = max(rivals, key=lambda place: place.speed)
    return f"; a rival is {fastest.speed / best.speed:.2f}× as fast as that: {fastest.name}, {_percent(fastest)} %"


def _percent(place: _Place) -> str:
    return f"{100 * place.result.accuracy:.1f}"
