"""Speed of encoding, importing and training, as ratios within one run."""
