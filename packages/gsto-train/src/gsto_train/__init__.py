"""Train, evaluate and report GSTO networks on any backend: data, metrics and the training loop in numpy."""
