# SPDX-License-Identifier: Apache-2.0
"""Requests as people send them, checked, and the answers."""

import base64
import binascii
import io
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hf_sidenet.optional import require


# A small file may say that it is a huge picture.
MAX_PIXELS = 20_000_000

Text = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """What nobody asked for is an error, not silence."""

    model_config = ConfigDict(extra="forbid")


class Pair(Strict):
    """Two texts that are classified together."""

    text: Text
    text_pair: Text


class Parameters(Strict):
    """θ of this request: of all SideNets, or one of each. Without it the server's own."""

    thresholds: Annotated[float, Field(ge=0)] | list[Annotated[float, Field(ge=0)]] | None = None


class Request(Strict):
    """One input or several: texts, pairs of texts, or images as base64 of a file."""

    inputs: Text | Pair | Annotated[list[Text | Pair], Field(min_length=1)]
    parameters: Parameters = Parameters()


class Answer(BaseModel):
    """The answer to one input: class, confidence, and the exit that gave it (0: the first SideNet)."""

    label: str
    score: float
    exit: int


def rows_of(request: Request, is_text: bool, max_rows: int) -> list[Any]:
    """Its inputs, as a [`RowReader`] takes them.

    Raises:
        ValueError: there are too many, or one is no image.
    """
    inputs = request.inputs if isinstance(request.inputs, list) else [request.inputs]
    if len(inputs) > max_rows:
        raise ValueError(f"`inputs` must be at most {max_rows}, got {len(inputs)}.")
    if is_text:
        return [(each.text, each.text_pair) if isinstance(each, Pair) else each for each in inputs]
    return [_image(each, place) for place, each in enumerate(inputs)]


def _image(value: str | Pair, place: int) -> Any:
    library = require("PIL.Image", "vision")
    if isinstance(value, Pair):
        raise ValueError(f"input {place} must be base64 of an image, got a pair of texts.")
    try:
        image = library.open(io.BytesIO(base64.b64decode(value, validate=True)))
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has {image.width} x {image.height} pixels; {MAX_PIXELS} are allowed")
        return image.convert("RGB")
    except (binascii.Error, OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        raise ValueError(f"input {place} must be base64 of an image: {error}.") from error
