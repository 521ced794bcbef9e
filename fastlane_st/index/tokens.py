"""Where tokens stand in a text: an encoder's own tokenizer, with the prompt and the length of a side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedTokenizerBase

from ..modeling.encoding_fastlane import CHARACTERS, splits_at_spaces, start_of
from ..modeling.fingerprint_fastlane import fastlane_model
from ..modeling.routing_fastlane import Task

Span = tuple[int, int]
"""Where something begins and ends in a text, in characters."""

LONGEST_WORD = 40  # characters; beyond, as in Chinese without spaces, a token stands for itself


class TextTokens(NamedTuple):
    """The tokens of a text, without those of the prompt and the special ones around them.

    Attributes:
        leading: How many tokens come before the text's first one.
        starts: Where each begins in the text, in characters.
        ends: Where each ends.
        words: The number of the word that each belongs to; words that the tokenizer doesn't tell apart
            have one number.
    """

    leading: int
    starts: list[int]
    ends: list[int]
    words: list[int | None]


@dataclass(frozen=True)
class SideTokenizer:
    """Tokenises texts as an encoder does for one side.

    Attributes:
        tokenizer: The encoder's own.
        prompt: Put before every text.
        length: Tokens of the longest text, with the prompt's and the special ones.
        lock: Held while it tokenises, since length and padding are the tokenizer's state.
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: str
    length: int
    lock: AbstractContextManager[Any]

    @classmethod
    def of(cls, encoder: object, task: Task) -> SideTokenizer | None:
        """That of a FastLaneModel, or of the PEFT or Sentence Transformers model around one; else None."""
        model = fastlane_model(encoder)
        if model is None:
            return None
        settings: Any = model.config
        prompt = settings.query_prompt if task == "query" else settings.document_prompt
        # Sentence Transformers has its own prompts and lengths.
        if isinstance(encoder, nn.Sequential):
            settings = encoder[0]
            prompt = getattr(encoder, "prompts", {}).get(task) or ""
        length = settings.query_length if task == "query" else settings.document_length
        return cls(model.tokenizer, prompt, length, model.tokenizing)

    def are_long(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text has more tokens than the encoder reads."""
        frame = self.tokenizer.num_special_tokens_to_add() + len(self.prompt) + 1
        is_long = [False] * len(texts)
        # No token of ASCII is shorter than a character; other characters may become several.
        asked = [
            number
            for number, text in enumerate(texts)
            if not self.prompt.isascii() or not text.isascii() or len(text) + frame > self.length
        ]
        starts = [start_of(texts[number], CHARACTERS * self.length) for number in asked]
        counts = self._counts(starts)
        for number, start, count in zip(asked, starts, counts, strict=True):
            is_long[number] = count > self.length
            if count <= self.length and len(start) < len(texts[number]):
                [whole] = self._counts([texts[number]])  # few tokens in many characters
                is_long[number] = whole > self.length
        return is_long

    def _counts(self, texts: Sequence[str]) -> list[int]:
        """How many tokens texts have, those beyond the first `length` as one."""
        if not texts:
            return []
        with self.lock:
            encoded = self.tokenizer(
                [self.prompt + text for text in texts], truncation=True, max_length=self.length + 1
            )
        return [len(ids) for ids in encoded["input_ids"]]

    def tokens(self, text: str) -> TextTokens:
        """All tokens of a text, also those that the encoder would cut off.

        Raises:
            ValueError: The tokenizer is a slow one, which doesn't say where tokens stand.
        """
        if not self.tokenizer.is_fast:
            raise ValueError(
                "the encoder's tokenizer doesn't say where tokens stand in a text: load a fast tokenizer "
                "(to index, long_texts='cut' does without)"
            )
        with self.lock:
            encoded = self.tokenizer(
                self.prompt + text, return_offsets_mapping=True, truncation=False, verbose=False
            )
        skipped = len(self.prompt)
        offsets, owners, words = (
            encoded["offset_mapping"],
            encoded.sequence_ids(),
            encoded.word_ids(),
        )
        places = [
            place
            for place, owner in enumerate(owners)
            if owner is not None and offsets[place][1] > skipped
        ]
        leading = places[0] if places else len(owners)
        return TextTokens(
            leading,
            [max(offsets[place][0] - skipped, 0) for place in places],
            [offsets[place][1] - skipped for place in places],
            [words[place] for place in places],
        )

    def num_content(self) -> int:
        """How many tokens of a text fit beside the prompt's and the special ones."""
        with self.lock:
            return self.length - len(self.tokenizer(self.prompt)["input_ids"])

    def word_spans(self, text: str, positions: Iterable[int]) -> list[Span | None]:
        """The word around each token, in characters; None for special tokens and those of the prompt.

        Args:
            text: At most as long as the encoder reads; what is beyond isn't tokenised.
            positions: Places of tokens in the encoded text, special ones and the prompt's included.
        """
        start = start_of(text, CHARACTERS * self.length)
        tokens = self.tokens(start if splits_at_spaces(self.tokenizer) else text)
        spans: dict[int | None, Span] = {}
        for begin, end, word in zip(tokens.starts, tokens.ends, tokens.words, strict=True):
            spans[word] = (spans.get(word, (begin, end))[0], end)
        found: list[Span | None] = []
        for position in positions:
            place = position - tokens.leading
            if not 0 <= place < len(tokens.words):
                found.append(None)
                continue
            begin, end = spans[tokens.words[place]]
            if end - begin > LONGEST_WORD:
                begin, end = tokens.starts[place], tokens.ends[place]
            found.append(without_spaces(text, begin, end))
        return found


def without_spaces(text: str, begin: int, end: int) -> Span | None:
    """A span without white space at its ends, which some tokenizers count to a word; None if it is all."""
    part = text[begin:end]
    begin += len(part) - len(part.lstrip())
    return (begin, begin + len(part.strip())) if part.strip() else None
