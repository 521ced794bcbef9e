"""The settings of a training run: a frozen dataclass, checked when made, read from YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from fastlane_st.adapters import LoraSettings
from fastlane_st.losses import LossWeights

from .parse_config import parse, read_yaml, replace_values


@dataclass(frozen=True)
class Source:
    """One source of training rows; `data.py` describes the rows that it may hold.

    Attributes:
        path: JSON Lines file, plain or .gz.
        dataset: Instead of `path`, a dataset for `datasets.load_dataset`: a Hub name or a folder.
        subset: The dataset's configuration, if it has several.
        split: The dataset's split; "train" if not given.
        name: The source's name in logs and errors; from `path` or `dataset` if not given.
        cap: Uses at most this many rows, drawn at random; None uses all.
        columns: Maps our fields to those of the source, such as `{query: question}`.
        num_negatives: How many hard negatives of each row are used; None uses all, and then every
            row must have equally many.
        join: Joins this many positives that are near to one another into one document, so that a
            model trained on sentences finds paragraphs; for pairs only.
    """

    path: str | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str | None = None
    name: str | None = None
    cap: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    num_negatives: int | None = None
    join: int = 1

    def __post_init__(self) -> None:
        """Raises a ValueError if a field is out of range or doesn't apply to the source."""
        if (self.path is None) == (self.dataset is None):
            raise ValueError(f"a source has either a path or a dataset, got {self}")
        if self.path is not None and (self.subset or self.split):
            raise ValueError(f"subset and split belong to a dataset, {self.path} is a file")
        if self.cap is not None and self.cap < 1:
            raise ValueError(f"cap must be at least 1 or None, got {self.cap}")
        if self.num_negatives is not None and self.num_negatives < 0:
            raise ValueError(f"num_negatives must be at least 0 or None, got {self.num_negatives}")
        if self.join < 1:
            raise ValueError(f"join must be at least 1, got {self.join}")

    @property
    def label(self) -> str:
        """The source's name in logs and errors."""
        where = self.path or self.dataset or ""
        return self.name or Path(where).name.removesuffix(".gz").removesuffix(".jsonl")


@dataclass(frozen=True)
class TrainingConfig:
    """The settings of one training run. Lengths are in tokens, special tokens included."""

    output_dir: str
    sources: tuple[Source, ...]

    # One of the two: a FastLane checkpoint to train further, or an encoder to build a new model over.
    model: str | None = None
    backbone: str | None = None
    backbone_options: dict[str, Any] = field(default_factory=dict)  # fields of FastLaneConfig

    lora: LoraSettings | None = None  # trains an adapter of `model`, whose own weights stay

    # One of the two, counted in optimiser steps or in passes over the data.
    max_steps: int | None = None
    epochs: float | None = None
    batch_size: int = 32  # pairs in each process; a pair's negatives are the other documents
    gradient_accumulation: int = 1  # batches in a step; unlike a larger batch it adds no negatives
    mini_batch_size: int | None = None  # texts in a forward pass, with gradient caching; None: all
    topic_size: int | None = None  # draws batches from clusters of this many queries (topics.py)
    source_sampling: Literal["proportional", "round_robin"] = "proportional"  # uses every row

    encoder_learning_rate: float = 2e-5  # a higher rate spoils the backbone's own MaxSim
    projection_learning_rate: float = 1e-4  # starts near its goal, as principal components
    router_learning_rate: float = 1e-3  # starts at random
    frozen: tuple[str, ...] = ()  # regexes; parameters whose name matches one are not trained
    warmup: float = 0.05  # below 1 a fraction of all steps, otherwise a number of steps
    max_gradient_norm: float = 1.0  # Hugging Face's default

    dtype: Literal["float32", "bfloat16"] = "float32"  # weights are float32 either way
    attention: str = "sdpa"  # eager is faster in bfloat16 on small CPUs
    dropout: float = 0.0  # three times the speed on a CPU, and short runs don't overfit
    query_length: int | None = None  # None uses the model's own
    document_length: int | None = None  # a shorter one is faster and costs little

    loss_weights: LossWeights = field(default_factory=LossWeights)
    num_routes: tuple[int, ...] = (1, 1, 2, 4, 8)  # each step draws one; one route most often
    scale: float = 20.0  # the default of sentence-transformers for cosines
    oracle_scale: float = 2.0  # soft enough that near-equal views share the credit
    teacher: str | None = None  # a checkpoint, or "initial" for the model before training

    temperature_start: float = 1.0  # the plain straight-through Gumbel-Softmax
    temperature_end: float | None = None  # the last value of a schedule other than constant
    temperature_schedule: Literal["constant", "linear", "exponential", "cosine"] = "constant"

    noise: float = 1.0  # the gate draws noise in this first fraction of the steps

    seed: int = 0
    log_every: int = 10  # steps
    save_every: int = 500  # steps between the checkpoints that a run can be resumed from
    keep_checkpoints: int = 2  # the newest may be incomplete if the run was killed
    query_num_routes: int | None = 1  # the result's default; None is full late interaction
    delta: bool = False  # also saves the result's difference from its backbone

    def __post_init__(self) -> None:
        """Raises a ValueError if a value is out of range or would be ignored."""
        self._check_choices()
        self._check_ranges()
        labels = [source.label for source in self.sources]
        if len(set(labels)) < len(labels):
            raise ValueError(f"sources need names of their own, got {labels}; set `name`")
        if self.mini_batch_size is not None and self.mini_batch_size >= self.batch_size:
            raise ValueError(
                f"mini_batch_size must be below batch_size ({self.batch_size}) or None, got "
                f"{self.mini_batch_size}"
            )
        is_constant = self.temperature_schedule == "constant"
        if is_constant != (self.temperature_end is None):
            raise ValueError(
                "temperature_end belongs to a temperature_schedule other than constant, got "
                f"{self.temperature_end} and {self.temperature_schedule!r}"
            )
        self._check_teacher()

    def _check_choices(self) -> None:
        for first, second in (("model", "backbone"), ("max_steps", "epochs")):
            given = [name for name in (first, second) if getattr(self, name) is not None]
            if len(given) != 1:
                raise ValueError(f"set either {first} or {second}, got {given or 'neither'}")
        if self.backbone_options and self.backbone is None:
            raise ValueError("backbone_options belong to a backbone; a model has its own")
        if self.lora is not None and self.model is None:
            raise ValueError("lora trains an adapter of a checkpoint, so name it as model")
        if self.lora is not None and self.delta:
            raise ValueError("delta is what a model adds to its backbone; an adapter has none")
        for name in ("sources", "num_routes"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")

    def _check_ranges(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value}")
        at_least_one = (
            *("max_steps", "batch_size", "gradient_accumulation", "mini_batch_size", "topic_size"),
            *("query_length", "document_length", "log_every", "save_every", "keep_checkpoints"),
            "query_num_routes",
        )
        _check(self, at_least_one, lambda value: value >= 1, "at least 1")
        rates = ("encoder_learning_rate", "projection_learning_rate", "router_learning_rate")
        _check(self, (*rates, "warmup"), lambda value: value >= 0, "at least 0")
        above = ("scale", "temperature_start", "temperature_end", "max_gradient_norm", "epochs")
        _check(self, (*above, "oracle_scale"), lambda value: value > 0, "above 0")
        _check(self, ("dropout",), lambda value: 0 <= value < 1, "in [0, 1)")
        _check(self, ("noise",), lambda value: 0 <= value <= 1, "in [0, 1]")
        if min(self.num_routes) < 1:
            raise ValueError(f"num_routes must each be at least 1, got {list(self.num_routes)}")
        for pattern in self.frozen:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"frozen holds no regex: {pattern!r} ({error})") from None
        if not any(getattr(self, rate) for rate in rates):
            raise ValueError(f"one of {', '.join(rates)} must be above 0, or nothing is trained")
        if not any(vars(self.loss_weights).values()):
            raise ValueError("one of loss_weights must be above 0")

    def _check_teacher(self) -> None:
        weights = self.loss_weights
        if self.teacher is None and weights.teacher:
            raise ValueError("loss_weights.teacher is above 0, so name a teacher")
        if self.teacher is not None and not (weights.teacher or weights.distillation):
            raise ValueError(
                "a teacher is used by the loss parts teacher and distillation, and the weight of "
                "both is 0"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingConfig:
        """Makes a configuration from the mapping of a YAML file.

        Raises:
            ValueError: A key is unknown or missing, or a value is of the wrong kind or range.
        """
        return parse(cls, values)

    @classmethod
    def load(cls, path: str | Path, overrides: Iterable[str] = ()) -> TrainingConfig:
        """Reads a YAML file; `overrides` such as `loss_weights.oracle=0.1` replace its values.

        Raises:
            ValueError: The file or an override is broken, or as `from_dict`.
        """
        return cls.from_dict(replace_values(read_yaml(Path(path)), overrides))

    def to_dict(self) -> dict[str, Any]:
        """Returns lists and dicts that `from_dict` makes the same configuration from."""
        values: dict[str, Any] = _plain(asdict(self))
        values["sources"] = [
            {key: value for key, value in source.items() if value not in (None, {})}
            for source in values["sources"]
        ]
        return values

    def save(self, path: Path) -> None:
        """Writes the YAML file that `load` reads."""
        path.write_text(yaml.safe_dump(self.to_dict(), sort_keys=False), "utf-8")


def _check(config: TrainingConfig, names: Iterable[str], holds: Any, expected: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not holds(value):
            raise ValueError(f"{name} must be {expected}, got {value}")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
