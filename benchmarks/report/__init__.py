"""The report, its tables and plots, and the results of a model card, from committed JSON."""
