# SPDX-License-Identifier: Apache-2.0
"""What was found in a folder before it is pushed."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Shareable:
    """What [`check_shareable`] found.

    Args:
        directory (`str`): the folder.
        errors (`list[str]`): what would not load elsewhere, or must not be shared. Such a folder is not pushed.
        warnings (`list[str]`): what people will miss or should look at.
        notes (`list[str]`): what is as it may be, but good to know.
        files (`dict[str, int]`): what would be uploaded, with its size in bytes.
        left_out (`list[str]`): what stays here.
        code (`dict[str, str]`): sha256 of each file of code that travels, which others run.
        changed_code (`list[str]`): those that are not the installed package's.
    """

    directory: str
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    files: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    changed_code: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing forbids to share it."""
        return not self.errors

    def text(self) -> str:
        """All of it, for people."""
        size = sum(self.files.values())
        parts = [
            f"{self.directory}: {_count(len(self.files), 'file')}, {size / 1e6:.1f} MB, "
            + ("can be shared." if self.ok else "cannot be shared as it is.")
        ]
        # One by one what matters; the code has a table of its own.
        others = {name: size for name, size in self.files.items() if name not in self.code}
        if others:
            parts.append(_table([(f"{size / 1e6:.3f} MB", name) for name, size in sorted(others.items())]))
        if self.code:
            rows = [(digest, f"{name}{self._origin(name)}") for name, digest in sorted(self.code.items())]
            parts.append("Code that runs at whoever loads it with trust_remote_code=True (sha256):\n\n" + _table(rows))
        if self.left_out:
            shown = ", ".join(self.left_out[:8]) + (" ..." if len(self.left_out) > 8 else "")
            parts.append(f"Stays here: {shown}")
        for title, found in (("Error", self.errors), ("Warning", self.warnings), ("Note", self.notes)):
            if found:
                parts.append("\n".join(f"{title}: {each}" for each in found))
        return "\n\n".join(parts)

    def _origin(self, name: str) -> str:
        return " (not the installed hf_sidenet's)" if name in self.changed_code else ""


def _table(rows: list[tuple[str, str]]) -> str:
    width = max(len(first) for first, _ in rows)
    return "\n".join(f"{first:>{width}}  {second}" for first, second in rows)


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}{'' if number == 1 else 's'}"
