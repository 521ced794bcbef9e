"""Why a query and a document score as they do: the words that met, and what the routes saw of them."""

from .pair import PairExplanation, RouteMatch, explain_pair

__all__ = ["PairExplanation", "RouteMatch", "explain_pair"]
