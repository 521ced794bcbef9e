"""`index.json`, the manifest: which files an index is made of, with the checksum of each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "index.json"
FORMAT = "fastlane-index"
FORMAT_VERSION = 4


def with_checksum(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the sha256 of everything else in it."""
    return {**manifest, "sha256": _checksum(manifest)}


def read_manifest(directory: Path) -> dict[str, Any]:
    """Reads and checks the manifest of an index folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged, no manifest of ours, or of another format.
    """
    path = directory / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{directory} is no FastLane index: it has no {MANIFEST}")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; save the index to a new folder") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(
            f"{directory} is no FastLane index: its {MANIFEST} has no format {FORMAT!r}"
        )
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has index format {version}, this code reads {FORMAT_VERSION}: update fastlane-st"
        )
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has index format {version}, which a fastlane-st before 0.1.0 wrote; this one reads "
            f"{FORMAT_VERSION}: build the index again, with 'fastlane index CORPUS --out DIR' or "
            "FastLaneIndex.build"
        )
    if manifest.get("sha256") != _checksum(manifest):
        raise ValueError(
            f"{path} is damaged: its checksum is wrong; save the index to a new folder"
        )
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    body = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
