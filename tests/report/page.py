# SPDX-License-Identifier: Apache-2.0
"""docs/report.md as a schema: its tables, and a report checked against them."""

import re
from pathlib import Path


PAGE = Path(__file__).parents[2] / "docs" / "report.md"
PLAIN = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}


def tables() -> dict[str, dict[str, tuple[str, bool]]]:
    """Return for each type its keys: their type, and whether they are required."""
    found = {}
    for section in re.split(r"^## Type ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        name, body = section[1:].split("`", 1)
        found[name] = {}
        for line in body.splitlines():
            match = re.match(r"\| (\(?)`(\w+)`\)? \| ([^|]+) \|", line)
            if match:
                assert match[2] not in found[name], f"{name}.{match[2]} is there twice"
                found[name][match[2]] = (match[3].strip().replace("`", ""), match[1] == "")
    return found


def problems(report: dict, known: dict, seen: set[tuple[str, str]]) -> list[str]:
    """Return differences between a report and the page; `seen` collects the keys present."""
    return _object(report, "report", "report", known, seen)


def _object(value, name, where, known, seen):
    if not isinstance(value, dict):
        return [f"{where}: {value!r} is no {name}"]
    table = known[name]
    found = [f"{where}.{key} is not on the page" for key in value.keys() - table.keys()]
    for key, (kind, required) in table.items():
        if key in value:
            seen.add((name, key))
            found += _value(value[key], kind, f"{where}.{key}", known, seen)
        elif required:
            found.append(f"{where}.{key} is not in the report")
    return found


def _value(value, kind, where, known, seen):
    if kind.endswith(" or null"):
        return [] if value is None else _value(value, kind.removesuffix(" or null"), where, known, seen)
    for start, container in (("list of ", list), ("map to ", dict)):
        if kind.startswith(start):
            if not isinstance(value, container):
                return [f"{where}: {value!r} is no {kind}"]
            items = value.items() if container is dict else enumerate(value)
            rest = kind.removeprefix(start)
            return [p for key, item in items for p in _value(item, rest, f"{where}[{key}]", known, seen)]
    if kind in known:
        return _object(value, kind, where, known, seen)
    right = isinstance(value, PLAIN[kind]) and (kind == "boolean" or not isinstance(value, bool))
    return [] if right else [f"{where}: {value!r} is no {kind}"]
