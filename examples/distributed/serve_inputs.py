# SPDX-License-Identifier: Apache-2.0
"""Requests as clients send them, validated, and the answers."""

import base64
import binascii
import io
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from hf_sidenet.models.modalities import Modality
from hf_sidenet.optional import require


# Per request, whatever the server allows: input beyond this is not even validated.
MAX_INPUTS = 256
# All θ values of a request.
MAX_THRESHOLDS = 256
# A small file may claim to be a huge picture. For all pictures of a request together.
MAX_PIXELS = 20_000_000
# Some of PIL's formats start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")

Text = Annotated[str, Field(min_length=1)]
Theta = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]


class Strict(BaseModel):
    """A model in which unknown fields are errors."""

    model_config = ConfigDict(extra="forbid")


class Pair(Strict):
    """Two texts that are classified together."""

    text: Text
    text_pair: Text


class Parameters(Strict):
    """θ for this request: one for all SideNets, or one each. By default the server's own."""

    thresholds: Theta | Annotated[list[Theta], Field(max_length=MAX_THRESHOLDS)] | None = None


class Request(Strict):
    """One input or several: texts, pairs of texts, or base64-encoded image files."""

    inputs: Text | Pair | Annotated[list[Text | Pair], Field(min_length=1, max_length=MAX_INPUTS)]
    parameters: Parameters = Parameters()


class Answer(BaseModel):
    """The answer to one input: class, confidence, and the exit that gave it (0: the first SideNet)."""

    label: str
    score: float
    exit: int


def rows_of(request: Request, modality: Modality, max_rows: int) -> list[Any]:
    """Return its inputs, as a [`RowReader`] takes them.

    Raises:
        ValueError: there are too many, or one is not an image.
    """
    inputs = request.inputs if isinstance(request.inputs, list) else [request.inputs]
    if len(inputs) > max_rows:
        raise ValueError(f"`inputs` must be at most {max_rows}, got {len(inputs)}.")
    if modality.has_tokens:
        return [(each.text, each.text_pair) if isinstance(each, Pair) else each for each in inputs]
    return _images(inputs)


def _images(inputs: Sequence[str | Pair]) -> list[Any]:
    opened = [_opened(value, place) for place, value in enumerate(inputs)]
    # From their first bytes; nothing is decoded yet.
    pixels = sum(image.width * image.height for image in opened)
    if pixels > MAX_PIXELS:
        raise ValueError(f"`inputs` must have at most {MAX_PIXELS} pixels together, got {pixels}.")
    images = []
    for place, image in enumerate(opened):
        try:
            # Decoded here, where a damaged one is the caller's error; the reader converts its channels.
            image.load()
            images.append(image)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(f"input {place} must be base64 of an image, got a damaged one.") from error
    return images


def _opened(value: str | Pair, place: int) -> Any:
    library = require("PIL.Image", "vision")
    if isinstance(value, Pair):
        raise ValueError(f"input {place} must be base64 of an image, got a pair of texts.")
    try:
        return library.open(io.BytesIO(base64.b64decode(value, validate=True)), formats=FORMATS)
    except (binascii.Error, OSError, ValueError, SyntaxError, library.DecompressionBombError) as error:
        raise ValueError(f"input {place} must be base64 of an image, one of {', '.join(FORMATS)}.") from error
