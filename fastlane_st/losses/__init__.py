"""Losses that train a routed late-interaction encoder."""

from .cached import CachedRoutedContrastiveLoss
from .routed_contrastive import LossWeights, RoutedContrastiveLoss

__all__ = ["CachedRoutedContrastiveLoss", "LossWeights", "RoutedContrastiveLoss"]
