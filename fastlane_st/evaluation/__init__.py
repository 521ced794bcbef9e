"""Quality on BEIR collections: metrics, controls over one encoding, and baselines."""
