"""Writes the delta of an untrained `fastlane-minilm`: where training starts from.

    python training/initialise.py

The projection is the principal components of token views; the router is random.
"""

from __future__ import annotations

import torch

from fastlane_st import FastLaneModel
from fastlane_st.hub import BASE_MODEL, DELTA_FOLDER, base_weights, save_delta


def main() -> None:
    """Builds the model and writes its delta into the package."""
    torch.manual_seed(0)
    base = base_weights()
    model = FastLaneModel.from_backbone(
        base, base_model=BASE_MODEL, embedding_dim=256, context_weight=1.0
    )
    save_delta(model, base, DELTA_FOLDER)
    print(f"wrote {DELTA_FOLDER}")


if __name__ == "__main__":
    main()
