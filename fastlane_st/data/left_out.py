"""What a reader leaves out of a corpus: counted while it reads, and said once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

MOST_NAMED = 5


class LeftOut:
    """Counts the fields and files that no document holds."""

    def __init__(self) -> None:
        self._fields: Counter[str] = Counter()
        self._suffixes: Counter[str] = Counter()
        self._files: list[str] = []

    def field(self, name: str, what: str, count: int = 1) -> None:
        """Counts a field of `count` documents that metadata can't hold, `what` says why."""
        self._fields[f"{name!r} ({what})"] += count

    def other_file(self, name: str) -> None:
        """Counts a file that is no text, by its suffix."""
        self._suffixes[Path(name).suffix.lower() or "file without a suffix"] += 1

    def file(self, name: str, why: str) -> None:
        """Notes a file or folder that can't be read."""
        self._files.append(f"{name} ({why})")

    def sentences(self) -> list[str]:
        """Says what was left out, a sentence for fields, one for files, one for files by name."""
        said = []
        if self._fields:
            named = _joined([f"{name} of {count:,}" for name, count in self._fields.items()])
            said.append(
                f"metadata holds texts, finite numbers, true, false and null; left out: {named}"
            )
        if self._suffixes:
            most_first = sorted(self._suffixes.items(), key=lambda one: (-one[1], one[0]))
            named = _joined([f"{count:,} {suffix}" for suffix, count in most_first])
            said.append(f"passed over: {named}")
        if self._files:
            said.append(f"passed over: {_joined(self._files)}")
        return said


def _joined(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
