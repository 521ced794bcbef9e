"""What becomes of a text beyond the encoder's length; `windows` does it. Importing this is cheap."""

from typing import Literal, TypeAlias

LongTexts: TypeAlias = Literal["window", "cut", "error"]
"""Overlapping windows of it, its start alone, or a ValueError that names the document."""
