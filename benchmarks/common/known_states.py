"""A backbone that computes the states of a text once, for heads that are compared over one backbone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class KnownStates(nn.Module):
    """A backbone that computes the states of a text once, and gives them again to whoever asks.

    Args:
        backbone: Computes them; (T, H) of each text are kept in float16.
        states: Those that an equal backbone has computed, by their tokens; shared with it.
    """

    def __init__(self, backbone: nn.Module, states: dict[bytes, Tensor] | None = None) -> None:
        super().__init__()
        self.config = backbone.config
        self.backbone = backbone
        self._states = {} if states is None else states

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
