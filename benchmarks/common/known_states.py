"""A backbone that computes the states of a text once, for heads that are compared over one backbone."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fastlane_st.modeling.fingerprint_fastlane import base_digest
from fastlane_st.modeling.modeling_fastlane import FastLaneModel


class KnownStates(nn.Module):
    """A backbone that computes the states of a text once, and gives them again to whoever asks.

    Args:
        backbone: Computes them; (T, H) of each text are kept in float16.
        states: Those that an equal backbone has computed, by their tokens; shared with it.
    """

    def __init__(self, backbone: nn.Module, states: dict[bytes, Tensor] | StateFiles) -> None:
        super().__init__()
        self.config = backbone.config
        self.backbone = backbone
        self._states = states

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Any:
        rows = zip(input_ids, attention_mask.bool(), strict=True)
        keys = [ids[mask].numpy().tobytes() for ids, mask in rows]
        if not all(key in self._states for key in keys):
            output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **options)
            for key, states, mask in zip(
                keys, output.last_hidden_state, attention_mask.bool(), strict=True
            ):
                self._states[key] = states[mask].half()
        states = [self._states[key].float() for key in keys]
        return Known(last_hidden_state=nn.utils.rnn.pad_sequence(states, batch_first=True))


class Known(dict[str, Any]):
    """A backbone's output: a mapping whose values are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


class StateFiles:
    """States in the files of a folder, so that a later command needs no backbone for the same texts.

    Args:
        folder: Of one backbone.
        at_once: Texts that are written as one file. Up to so many are lost if a command is stopped.
    """

    def __init__(self, folder: Path, at_once: int = 2_000) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._at_once = folder, at_once
        self._new: dict[str, Tensor] = {}
        self._files: dict[str, Any] = {}
        for path in sorted(folder.glob("*.safetensors")):
            self._open(path)

    def _open(self, path: Path) -> None:
        file = safe_open(path, "pt")
        self._files.update(dict.fromkeys(file.keys(), file))

    def __getitem__(self, key: bytes) -> Tensor:
        name = named(key)
        states: Tensor = (
            self._new[name] if name in self._new else self._files[name].get_tensor(name)
        )
        return states

    def __contains__(self, key: bytes) -> bool:
        name = named(key)
        return name in self._new or name in self._files

    def __setitem__(self, key: bytes, states: Tensor) -> None:
        if key in self:  # a file is named by one of its texts
            return
        self._new[named(key)] = states.clone()
        if len(self._new) >= self._at_once:
            self.flush()

    def flush(self) -> None:
        """Writes what is new as a file of its own."""
        if self._new:
            path = self._folder / f"{min(self._new)}.safetensors"
            save_file(self._new, path.with_suffix(".tmp"))
            path.with_suffix(".tmp").replace(path)
            self._new = {}
            self._open(path)

    def __len__(self) -> int:
        return len(self._new) + len(self._files)


def with_known_states(model: FastLaneModel, folder: Path) -> StateFiles:
    """Puts files of states before a model's backbone, in a folder of that backbone's own."""
    states = StateFiles(folder / base_digest(model.backbone, torch.float32)[:16])
    model.backbone = KnownStates(model.backbone, states)
    return states


def named(key: bytes) -> str:
    """The name of a text's states in files."""
    return hashlib.sha256(key).hexdigest()
