"""What was measured here, filed and put beside the paper: `python -m gsto_train.results`."""
