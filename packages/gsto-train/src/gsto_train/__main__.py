"""`python -m gsto_train` is the command `gsto-train`, as launchers of several processes start it."""

from gsto_train.commands.train import main

main()
