"""Trains the router and the route layers of a model to score as its own MaxSim does; documents are frozen.

A step takes queries, some of the documents that the index finds for each, and the document that it
belongs to. The model's MaxSim over these is the teacher: the routed query's scores follow it by their
Kullback-Leibler divergence, and where a person gave the document, by cross-entropy as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..files import replace_file
from ..modeling.modeling_fastlane import FastLaneModel
from ..modeling.projection_fastlane import FastLaneOutput
from ..modeling.search_fastlane import check_counts
from .queries import TrainingQuery
from .states import QueryStates, score_queries
from .vectors import TokenVectors

ALIKE = 16
"""Queries of a step that are padded to one length."""
QUERY_PARTS = ("router.", "route_layers.")
"""Prefixes of the parameters that may change while documents' vectors stay what they are."""


@dataclass(frozen=True)
class RouteTraining:
    """Settings of a run.

    Attributes:
        steps: Optimiser steps; 0 leaves the routes untrained.
        batch_size: Queries in a step.
        num_candidates: Found documents drawn for each of them.
        layer_learning_rate: Of the route layers; the router's is `router_learning_rate`.
        num_routes: Numbers of routes; one is drawn for each step.
        temperature_start: Of the Gumbel gate; it falls to `temperature_end` exponentially.
        noise: Share of the steps whose gate draws Gumbel noise.
        scale: Multiplies mean similarities before a softmax.
        distillation_weight: Of the divergence from MaxSim.
        label_weight: Of the cross-entropy.
        false_negatives: A candidate whose MaxSim is above this share of the document's own is no
            negative.
        save_every: Steps between checkpoints of the run.
        seed: Of all draws.
    """

    steps: int = 2_000
    batch_size: int = 64
    num_candidates: int = 16
    layer_learning_rate: float = 2e-4
    router_learning_rate: float = 5e-4
    num_routes: tuple[int, ...] = (1, 1, 1, 2, 4, 8)
    temperature_start: float = 1.0
    temperature_end: float = 0.3
    noise: float = 0.6
    scale: float = 20.0
    distillation_weight: float = 2.0
    label_weight: float = 0.5
    false_negatives: float = 0.95
    save_every: int = 250
    seed: int = 0

    def __post_init__(self) -> None:
        check_counts(
            batch_size=self.batch_size,
            num_candidates=self.num_candidates,
            save_every=self.save_every,
        )
        if self.steps < 0:
            raise ValueError(f"steps must be at least 0, got {self.steps}")


class TrainingData(NamedTuple):
    """Queries with the states of their tokens, the documents' vectors and each query's candidates.

    `candidates` are document numbers (queries, C), best first; -1 where fewer were found.
    """

    queries: Sequence[TrainingQuery]
    states: Sequence[QueryStates]
    vectors: TokenVectors
    candidates: npt.NDArray[np.int32]


def train_routes(
    model: FastLaneModel,
    data: TrainingData,
    settings: RouteTraining,
    folder: Path,
    show_progress_bar: bool = False,
) -> list[dict[str, float]]:
    """Trains the query side in place, and goes on where an earlier run in `folder` stopped.

    Returns:
        A line for every 50 steps: the step, the mean loss and its parts.

    Raises:
        ValueError: The loss is not finite.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(QUERY_PARTS))
    optimizer = make_optimizer(model, settings)
    run = RunState(folder)
    first = run.load(model, optimizer)
    model.eval()  # no dropout
    lines = run.lines
    sums: dict[str, float] = {}
    with tqdm(
        total=settings.steps, initial=first, desc="Training", disable=not show_progress_bar
    ) as bar:
        for step in range(first, settings.steps):
            losses = training_step(model, optimizer, data, settings, step)
            if not math.isfinite(losses["loss"]):
                raise ValueError(
                    f"the loss is {losses['loss']} at step {step}: lower the learning rates of RouteTraining"
                )
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value / 50
            bar.update()
            if (step + 1) % 50 == 0:
                lines.append({"step": step + 1, **sums})
                bar.set_postfix(loss=f"{sums['loss']:.3f}")
                sums = {}
            if (step + 1) % settings.save_every == 0 or step + 1 == settings.steps:
                run.save(model, optimizer, step + 1)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return lines


def training_step(
    model: FastLaneModel,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    settings: RouteTraining,
    step: int,
) -> dict[str, float]:
    """One optimiser step; its draws depend on the seed and the step alone."""
    chance = np.random.default_rng((settings.seed, step))
    torch.manual_seed(int(chance.integers(2**31)))
    progress = step / settings.steps
    for group in optimizer.param_groups:
        warm = min(1.0, (step + 1) / max(1.0, 0.05 * settings.steps))
        group["lr"] = group["peak"] * warm * (1 - progress)
    drawn = chance.integers(len(data.queries), size=settings.batch_size).tolist()
    numbers = sorted(drawn, key=lambda number: len(data.states[number].is_view))
    num_routes = int(chance.choice(settings.num_routes))
    start, end = settings.temperature_start, settings.temperature_end
    temperature = start * (end / start) ** progress
    teachers, students = [], []
    for part in batches(len(numbers), ALIKE):  # of like lengths: little padding
        queries = [numbers[place] for place in part]
        output = score_queries(model, [data.states[number] for number in queries])
        views, gate = model.gate(output, num_routes, temperature, progress < settings.noise)
        documents = [
            draw_documents(data, number, settings.num_candidates, chance) for number in queries
        ]
        for one, other in similarities(output, gate, views, data.vectors, documents):
            teachers.append(one)
            students.append(other)
    teacher, student = padded(teachers), padded(students)
    is_labelled = torch.tensor([data.queries[number].is_labelled for number in numbers])
    losses = route_losses(settings.scale * teacher, settings.scale * student, is_labelled, settings)
    optimizer.zero_grad(set_to_none=True)
    losses["loss"].backward()
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return {name: float(value.detach()) for name, value in losses.items()}


def draw_documents(
    data: TrainingData, number: int, num_candidates: int, chance: np.random.Generator
) -> list[int]:
    """A query's document, and some others that were found for it."""
    own = data.queries[number].document
    found = data.candidates[number]
    others = found[(found != own) & (found >= 0)]
    drawn = chance.permutation(others)[:num_candidates]
    return [own, *drawn.tolist()]


def similarities(
    output: FastLaneOutput,
    gate: Tensor,
    views: Tensor,
    vectors: TokenVectors,
    documents: Sequence[Sequence[int]],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each query's mean similarities with its documents, (C,): by all views, and by the routed."""
    for row, numbers in enumerate(documents):
        gathered, counts = vectors.gather(numbers)
        tokens, lengths = torch.from_numpy(gathered).float(), torch.from_numpy(counts)

        def best(queries: Tensor, tokens: Tensor = tokens, lengths: Tensor = lengths) -> Tensor:
            return torch.segment_reduce(tokens @ queries.T, "max", lengths=lengths, axis=0)

        mask = output.token_mask[row]
        with torch.no_grad():
            teacher = best(output.token_embeddings[row][mask]).mean(dim=1)
        kept = gate[row][mask]
        yield teacher, best(views[row][mask]) @ kept / kept.detach().sum()


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows of different lengths as one tensor, with -inf where a row ends."""
    return nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=-math.inf)


def route_losses(
    teacher: Tensor, student: Tensor, is_labelled: Tensor, settings: RouteTraining
) -> dict[str, Tensor]:
    """The loss and its parts, from scaled similarities (B, C) whose first column is the query's document."""
    is_there = student.isfinite()
    lowest = -1e4
    target = teacher.masked_fill(~is_there, lowest).log_softmax(dim=1)
    found = student.masked_fill(~is_there, lowest).log_softmax(dim=1)
    distillation = nn.functional.kl_div(found, target, reduction="batchmean", log_target=True)
    own = teacher[:, :1]
    is_negative = is_there & (teacher <= own - (1 - settings.false_negatives) * own.abs())
    is_negative[:, 0] = True
    labels = torch.zeros(len(student), dtype=torch.long)
    each = nn.functional.cross_entropy(
        student.masked_fill(~is_negative, lowest), labels, reduction="none"
    )
    label = (each * is_labelled).sum() / is_labelled.sum().clamp_min(1)
    loss = settings.distillation_weight * distillation + settings.label_weight * label
    return {"loss": loss, "distillation": distillation, "label": label}


def make_optimizer(model: FastLaneModel, settings: RouteTraining) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained, the route layers at a rate of their own."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_layer = name.startswith("route_layers.")
            rate = settings.layer_learning_rate if is_layer else settings.router_learning_rate
            groups.setdefault(rate, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": params, "lr": rate, "peak": rate} for rate, params in groups.items()],
        weight_decay=0.01,
    )


class RunState:
    """A run's files: its log, and the newest state of the parameters and the optimiser."""

    def __init__(self, folder: Path) -> None:
        self._log, self._state = folder / "training.json", folder / "training.safetensors"
        self.lines: list[dict[str, float]] = []

    def load(self, model: FastLaneModel, optimizer: torch.optim.Optimizer) -> int:
        """Puts back what was saved last, and gives the step that comes next; 0 if nothing was saved."""
        if not self._state.exists():
            return 0
        self.lines = json.loads(self._log.read_text("utf-8"))
        tensors = load_file(self._state)
        step = int(tensors.pop("step"))
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name, parameter in trained.items():
            parameter.data.copy_(tensors[f"parameter.{name}"])
            keys = ("step", "exp_avg", "exp_avg_sq")  # missing where there was never a gradient
            state = {key: tensors[f"{key}.{name}"] for key in keys if f"{key}.{name}" in tensors}
            if state:
                optimizer.state[parameter] = state
        return step

    def save(self, model: FastLaneModel, optimizer: torch.optim.Optimizer, step: int) -> None:
        """Writes everything that the next step depends on, the step itself last of all."""
        tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                tensors[f"parameter.{name}"] = parameter.data
                for key, value in optimizer.state[parameter].items():
                    tensors[f"{key}.{name}"] = value
        content = json.dumps(self.lines) + "\n"
        replace_file(self._log, lambda path: path.write_text(content, "utf-8"))
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        replace_file(self._state, lambda path: save_file(contiguous, path))


def batches(count: int, size: int) -> Iterator[range]:
    """The numbers below `count` in groups."""
    for start in range(0, count, size):
        yield range(start, min(start + size, count))
