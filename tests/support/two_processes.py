"""Three runs in each of two processes; a test starts it as `accelerate launch -m`.

The arguments are two configurations and a folder: the first is trained by the command; the second is
trained into the folder, then stopped after step 8 and resumed in its own.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from tests.support.training import StopAt, StopError
from training.train import main, train
from training.training_config import TrainingConfig

if __name__ == "__main__":
    first, second, uninterrupted = sys.argv[1:]
    assert main(["--config", first]) == 0
    config = TrainingConfig.load(second)
    train(replace(config, output_dir=uninterrupted))
    try:
        train(config, callbacks=[StopAt(8)])
    except StopError:
        train(config, resume=True)
