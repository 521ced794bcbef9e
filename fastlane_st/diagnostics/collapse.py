"""Alarms: the ways in which a router stops choosing, each with its name and its reason."""

from __future__ import annotations

from dataclasses import dataclass

from .choices import RouterChoices


@dataclass(frozen=True)
class CollapseThresholds:
    """The values from which on an alarm is raised; shares are of queries with two or more views.

    Attributes:
        min_queries: With fewer such queries a share says little, and no alarm is raised.
        end_share: Share of routes on the first view, or on the last. A random choice among ten views
            gives .1.
        position_share: Share of routes on the most frequent other position.
        token_share: Share of routes on the most frequent token. Queries on one subject share a word,
            but half of them rarely share the one that tells them apart.
        normalised_entropy: Mean entropy over that of a uniform choice. A fresh scorer gives .999.
        function_share: Share of routes on special tokens, punctuation or stop words; an alarm also
            needs `function_excess`.
        function_excess: How far that share exceeds the share of these tokens among all views. They
            are about 40 % of an English question, and the encoder may have put its meaning there.
    """

    min_queries: int = 20
    end_share: float = 0.8
    position_share: float = 0.8
    token_share: float = 0.5
    normalised_entropy: float = 0.98
    function_share: float = 0.6
    function_excess: float = 0.1


@dataclass(frozen=True)
class Alarm:
    """A failure of a router, with the numbers that show it."""

    name: str
    reason: str


def find_alarms(
    choices: RouterChoices, thresholds: CollapseThresholds | None = None
) -> tuple[Alarm, ...]:
    """Gives an alarm for each threshold that a router's choices reach."""
    limits = thresholds or CollapseThresholds()
    if choices.num_choices < limits.min_queries:
        return ()
    alarms = [
        *_position_alarms(choices, limits),
        *_token_alarms(choices, limits),
    ]
    if choices.normalised_entropy >= limits.normalised_entropy:
        reason = (
            f"the entropy of the choice is {choices.normalised_entropy:.3f} of a uniform one's "
            f"(alarm from {limits.normalised_entropy:g}): the router prefers no view, as if untrained"
        )
        alarms.append(Alarm("uniform choice", reason))
    return tuple(alarms)


def _position_alarms(found: RouterChoices, limits: CollapseThresholds) -> list[Alarm]:
    ends = {"first": found.first_share, "last": found.last_share}
    alarms = [
        Alarm(
            f"always the {end} position",
            f"{share:.0%} of the routes are the {end} view (alarm from {limits.end_share:.0%}), "
            "whatever stands there",
        )
        for end, share in ends.items()
        if share >= limits.end_share
    ]
    position = found.common_position
    if not alarms and position.share >= limits.position_share:
        reason = (
            f"{position.share:.0%} of the routes are view {position.value} of their query (alarm "
            f"from {limits.position_share:.0%}), whatever stands there"
        )
        alarms.append(Alarm("always the same position", reason))
    return alarms


def _token_alarms(found: RouterChoices, limits: CollapseThresholds) -> list[Alarm]:
    alarms = []
    token = found.common_token
    if token.share >= limits.token_share:
        reason = (
            f"{token.share:.0%} of the routes are {token.value!r} (alarm from "
            f"{limits.token_share:.0%})"
        )
        alarms.append(Alarm("always the same token", reason))
    share = 1 - found.kinds["content"]
    chance = 1 - found.kinds_by_chance["content"]
    if share >= limits.function_share and share >= chance + limits.function_excess:
        reason = (
            f"{share:.0%} of the routes are special tokens, punctuation or stop words (alarm from "
            f"{limits.function_share:.0%}), which are {chance:.0%} of all views"
        )
        alarms.append(Alarm("punctuation and function words", reason))
    return alarms
