# SPDX-License-Identifier: Apache-2.0
"""The output folder: the job it belongs to, the parts it already has, and the summary."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scoring_actor import Scoring, part_path
from scoring_plan import Chunk, Source

from hf_sidenet.evaluation.provenance import versions
from hf_sidenet.io.files import replacing


# Parquet readers skip names that start with "_" or ".".
JOB, SUMMARY = "_job.json", "_summary.json"
# Increases when a field changes meaning.
VERSION = 1
LEFT_BEHIND = re.compile(r"\.(part-\d{5}\.parquet|_job\.json|_summary\.json|actors)\.([0-9a-f]{8}\.tmp|tries)")


def describe_job(
    sources: Sequence[Source],
    chunks: Sequence[Chunk],
    chunk_rows: int,
    scoring: Scoring,
    checkpoint: Mapping[str, Any],
) -> dict[str, Any]:
    """Describe everything that determines the content of the parts.

    Args:
        sources (`Sequence[Source]`): the input.
        chunks (`Sequence[Chunk]`): one per part.
        chunk_rows (`int`): maximum rows per part.
        scoring ([`Scoring`]): how rows are answered.
        checkpoint (`Mapping[str, Any]`): see [`identity`].
    """
    inputs = {
        source.name: {k: v for k, v in asdict(source).items() if k not in ("path", "name")} for source in sources
    }
    return {
        "inputs": inputs,
        "columns": list(scoring.columns),
        "max_length": scoring.max_length,
        "prefix": scoring.prefix,
        "chunk_rows": chunk_rows,
        "parts": len(chunks),
        **checkpoint,
    }


def open_output(output: str, job: Mapping[str, Any]) -> str | None:
    """Create the folder, or check that it belongs to this job.

    Args:
        output (`str`): the folder.
        job (`Mapping[str, Any]`): see [`describe_job`].

    Returns:
        `str`, *optional*: a warning: existing parts were written by other versions.

    Raises:
        ValueError: it is a file, belongs to another job, or contains something else.
    """
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"OUTPUT: must be a folder, got the file {output!r}.")
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in folder.iterdir() if not LEFT_BEHIND.fullmatch(path.name))
    if JOB in found:
        document = _read(folder / JOB)
        differences = _differences(document["job"], json.loads(json.dumps(job)))
        if differences:
            raise ValueError(
                f"OUTPUT: {output!r} belongs to another job: {'; '.join(differences)}. Name another folder, or remove "
                "this one."
            )
        then, now = document["versions"], versions("ray", "pyarrow", "tokenizers")
        other = [f"{name} {then.get(name)}, now {now.get(name)}" for name in now if now[name] != then.get(name)]
        return f"this job was begun with {'; '.join(other)}" if other else None
    if found:
        raise ValueError(f"OUTPUT: must be new, empty, or of this job, got {output!r} with {found[0]!r} in it.")
    document = {"version": VERSION, "versions": versions("ray", "pyarrow", "tokenizers"), "job": job}
    with replacing(folder / JOB) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return None


def missing(output: str, chunks: Sequence[Chunk]) -> list[Chunk]:
    """Return chunks whose part is missing or incomplete; how often they were started is reset."""
    for path in Path(output).glob(".*.tries"):
        path.unlink(missing_ok=True)
    return [chunk for chunk in chunks if not _is_whole(part_path(output, chunk.part), chunk.rows)]


def summarize(output: str, chunks: Sequence[Chunk], scoring: Scoring, num_exits: int) -> dict[str, Any]:
    """Count the rows in the parts: by exit, and those without an answer."""
    column = f"{scoring.prefix}exit_index"
    counts = [0] * num_exits
    for chunk in chunks:
        found = pq.read_table(part_path(output, chunk.part), columns=[column])[column]
        for each in pc.value_counts(found).to_pylist():
            if each["values"] is not None:
                counts[each["values"]] += each["counts"]
    rows = sum(chunk.rows for chunk in chunks)
    return {"rows": rows, "parts": len(chunks), "exits": counts, "errors": rows - sum(counts)}


def finish(output: str, summary: Mapping[str, Any]) -> None:
    """Write the summary, and remove unfinished files of killed runs."""
    folder = Path(output)
    with replacing(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    for path in folder.iterdir():
        if LEFT_BEHIND.fullmatch(path.name):
            path.unlink(missing_ok=True)


def summary_text(summary: Mapping[str, Any]) -> str:
    """Return the summary as a table."""
    *sidenets, last = summary["exits"]
    counts = {f"SideNet {index}": count for index, count in enumerate(sidenets)}
    counts |= {"MainNet": last, "no answer": summary["errors"]}
    lines = ["| answered by | rows | % |", "| :-- | --: | --: |"]
    lines += [f"| {name} | {count} | {100 * count / summary['rows']:.2f} |" for name, count in counts.items()]
    lines.append(f"| total | {summary['rows']} | 100.00 |")
    return "\n".join(lines)


def _is_whole(path: Path, rows: int) -> bool:
    try:
        return pq.read_metadata(path).num_rows == rows
    except (pa.ArrowException, OSError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] == VERSION and {"inputs", "thresholds"} <= document["job"].keys():
            return {"job": dict(document["job"]), "versions": dict(document["versions"])}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"OUTPUT: {str(path)!r} is damaged ({error}): remove the folder.") from error
    raise ValueError(f"OUTPUT: {str(path)!r} must be of version {VERSION}, got {document['version']!r}.")


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Sequence[str]:
    found = []
    for name in now:
        old, new = then.get(name), now[name]
        if old == new:
            continue
        if name == "inputs":
            changed = sorted(file for file in {*old, *new} if old.get(file) != new.get(file))
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            found.append(f"the input file {changed[0]!r}{more} {_change(old.get(changed[0]), new.get(changed[0]))}")
        elif name == "weights":
            found.append("CHECKPOINT had other weights")
        else:
            found.append(f"`{name}` was {old!r}, now {new!r}")
    return found


def _change(old: Any, new: Any) -> str:
    if old is None or new is None:
        return "is new" if old is None else "is gone"
    return "has changed"
