"""Files of a run that is there or not, and never half."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file beside another and puts it in its place."""
    scratch = path.with_name(f".{path.name}")
    write(scratch)
    os.replace(scratch, path)
