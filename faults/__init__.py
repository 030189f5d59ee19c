"""Faults on purpose: a training that is killed, whose disk fills up, whose files break, ends all the same.

`python -m faults` runs them and prints a table; it takes minutes, so it is no part of the tests.
"""
