# SPDX-License-Identifier: Apache-2.0
"""Uploads: limit them, read tables of texts and pictures, and write answers to a csv file."""

import csv
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..data.columns import LABELS, TEXTS, USUAL_PAIRS, usual_inputs
from ..data.loading import open_text
from ..io.files import replacing
from ..optional import require


MAX_BYTES = 10 * 2**20
MAX_ROWS = 10_000
MAX_CHARACTERS = 20_000
MAX_PICTURES = 200
MAX_PIXELS = 40_000_000
MAX_COLUMNS = 100
SHOWN_COLUMNS = 10
# Some other formats decode when opened, or run external programs.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
TABLES = {".csv": {}, ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}}

MAX_TOTAL_BYTES = 2**30
TOO_MUCH = b"The page has reached its limit for files. Try again later: they are deleted within the hour."


class UploadError(ValueError):
    """Invalid input from a visitor; the message can be shown as it is."""


@dataclass(frozen=True)
class Upload:
    """Rows to answer.

    Args:
        columns (`list[str]`): columns of the file; `["file"]` for pictures.
        cells (`list[list[str]]`): original cells of each row.
        rows (`Iterable`): texts, text pairs, or pictures, which are opened one by one.
        labels (`list[str]`, *optional*): original true class of each row.
    """

    columns: list[str]
    cells: list[list[str]]
    rows: Iterable[Any]
    labels: list[str] | None


def check_text(text: str | None, called: str = "the text") -> str:
    """Check and return a text.

    Raises:
        UploadError: the text is empty, not valid Unicode, or too long.
    """
    if not text or not text.strip():
        raise UploadError(f"Type something first: {called} is empty.")
    if not _is_unicode(text):
        raise UploadError(f"It must be valid Unicode: {called} has half of a surrogate pair.")
    if len(text) > MAX_CHARACTERS:
        raise UploadError(f"It must have at most {MAX_CHARACTERS:,} characters: {called} has {len(text):,}.")
    return text


def read_picture(path: str | Path | None) -> Any:
    """Read a picture, without converting its channels.

    Raises:
        UploadError: there is no file, it is not a picture, or it has too many pixels.
    """
    if path is None:
        raise UploadError("Choose a picture first.")
    with _opened(path) as picture:
        # Phones store rotation as metadata.
        return require("PIL.ImageOps", "space").exif_transpose(picture)


def read_pictures(paths: Sequence[str] | None) -> Upload:
    """Prepare pictures, in the order of upload. Only their sizes are read here.

    Raises:
        UploadError: there are none or too many, or one cannot be read, in some cases only when its turn comes.
    """
    if not paths:
        raise UploadError("Choose pictures first.")
    if len(paths) > MAX_PICTURES:
        raise UploadError(f"There must be at most {MAX_PICTURES} pictures at once, got {len(paths)}.")
    for path in paths:
        with _opened(path):
            pass
    return Upload(["file"], [[Path(path).name] for path in paths], map(read_picture, paths), None)


def read_table(path: str | Path | None, is_pair: bool = False) -> Upload:
    """Read a csv or tsv file with a header line; in a tsv file, quotation marks are text.

    Args:
        path (`str`): the file.
        is_pair (`bool`, *optional*, defaults to `False`): whether a row is a pair of texts.

    Raises:
        UploadError: the file cannot be read, is too long, or has no column with texts.
    """
    if path is None:
        raise UploadError("Choose a file first.")
    path = Path(path)
    if path.suffix.lower() not in TABLES:
        raise UploadError(f"The file must be one of {', '.join(TABLES)}, got {path.name}.")
    if path.stat().st_size > MAX_BYTES:
        raise UploadError(f"The file must have at most {MAX_BYTES // 2**20} MB, got {path.stat().st_size:,} bytes.")
    try:
        with open_text(path) as file:
            # Empty lines are not rows.
            reader = csv.reader(file, strict=True, **TABLES[path.suffix.lower()])
            lines = list(islice(filter(None, reader), MAX_ROWS + 2))
    except UnicodeDecodeError as error:
        raise UploadError(f"{path.name} must be UTF-8 text: {error.reason} at byte {error.start:,}.") from error
    except csv.Error as error:
        raise UploadError(f"{path.name} is not a valid {path.suffix[1:]} file: {error}.") from error
    columns, *cells = lines or [[]]
    _check_cells(path.name, columns, cells)
    inputs = _input_columns(path.name, columns, is_pair)
    rows = [tuple(row[i] for i in inputs) if is_pair else row[inputs[0]] for row in cells]
    for number, row in enumerate(cells, 1):
        for i in inputs:
            if not row[i].strip():
                raise UploadError(f"{path.name} must have a text in every row, got none in row {number:,}.")
            if len(row[i]) > MAX_CHARACTERS:
                raise UploadError(
                    f"A text must have at most {MAX_CHARACTERS:,} characters, got {len(row[i]):,} in row {number:,}."
                )
    names = [name.strip().lower() for name in columns]
    label = next((names.index(name) for tier in LABELS for name in tier if name in names), None)
    return Upload(columns, cells, rows, None if label is None else [row[label] for row in cells])


def write_answers(path: Path, batch: Upload, answers: Sequence[Sequence[Any]], names: Sequence[str]) -> None:
    """Write the original rows with their answers.

    Args:
        path (`Path`): csv file to write.
        batch ([`Upload`]): the rows.
        answers (`Sequence[Sequence]`): for each row, one value per name.
        names (`Sequence[str]`): names of the new columns; an underscore is appended to existing ones.
    """
    added = []
    for name in names:
        while name in batch.columns:
            name += "_"
        added.append(name)
    with replacing(path, private=True) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*batch.columns, *added])
        writer.writerows([*cells, *new] for cells, new in zip(batch.cells, answers, strict=True))


def _check_cells(name: str, columns: list[str], cells: list[list[str]]) -> None:
    if not cells:
        found = "only a header" if columns else "an empty file"
        raise UploadError(f"{name} must have a header line and at least one row, got {found}.")
    if len(cells) > MAX_ROWS:
        raise UploadError(f"{name} must have at most {MAX_ROWS:,} rows, got more.")
    if len(columns) > MAX_COLUMNS:
        raise UploadError(f"{name} must have at most {MAX_COLUMNS} columns, got {len(columns):,}.")
    for number, row in enumerate(cells, 1):
        if len(row) != len(columns):
            raise UploadError(
                f"{name} must have a cell for each of the {len(columns)} columns, got {len(row):,} in row {number:,}."
            )


def _input_columns(name: str, columns: list[str], is_pair: bool) -> list[int]:
    names = [column.strip().lower() for column in columns]
    found = usual_inputs(names, 2 if is_pair else 1)
    if found:
        return [names.index(column) for column in found[0]]
    choices = USUAL_PAIRS if is_pair else [(text,) for text in TEXTS]
    allowed = ", ".join(" and ".join(wanted) for wanted in choices)
    shown = ", ".join(repr(column[:40]) for column in columns[:SHOWN_COLUMNS])
    what = "two columns named" if is_pair else "a column named"
    raise UploadError(f"{name} must have a header line with {what} one of: {allowed}; got {shown}.")


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """Open a picture without decoding it."""
    pillow, name = require("PIL.Image", "space"), Path(path).name
    try:
        with pillow.open(path, formats=FORMATS) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise UploadError(
                    f"A picture must have at most {MAX_PIXELS:,} pixels, got {picture.width:,} × "
                    f"{picture.height:,} in {name}."
                )
            yield picture
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        if isinstance(error, UploadError):
            raise
        kinds = ", ".join(FORMATS)
        raise UploadError(
            f"{name} cannot be read as a picture: it must be a complete file of type {kinds}."
        ) from error


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


class UploadLimit:
    """ASGI middleware that rejects uploads when the files in a folder, including uploads in progress, are too large.

    Args:
        app (ASGI application): the application.
        folder (`Path`): its folder for uploads.
        most (`int`): maximum total size in bytes.
    """

    def __init__(self, app: Callable[..., Awaitable[None]], folder: Path, most: int):
        self.app, self.folder, self.most = app, folder, most
        self.coming = 0

    async def __call__(self, scope: dict[str, Any], receive: Callable, send: Callable) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http" or not scope["path"].rstrip("/").endswith("/upload"):
            await self.app(scope, receive, send)
            return
        kept, mine = _bytes_in(self.folder), 0
        refused = answered = False

        async def counted() -> dict[str, Any]:
            nonlocal mine, refused
            message = await receive()
            size = len(message.get("body", b""))
            mine, self.coming = mine + size, self.coming + size
            if kept + self.coming > self.most:
                refused = True
                # Makes the application stop reading and delete the partial file.
                return {"type": "http.disconnect"}
            return message

        async def told(message: dict[str, Any]) -> None:
            nonlocal answered
            if not refused:
                answered = True
                await send(message)

        try:
            await self.app(scope, counted, told)
        except Exception:
            if not refused:
                raise
        finally:
            self.coming -= mine
        if refused and not answered:
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": 507, "headers": headers})
            await send({"type": "http.response.body", "body": TOO_MUCH})


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        # Deleted meanwhile.
        except OSError:
            continue
    return total
