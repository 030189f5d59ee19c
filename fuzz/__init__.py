"""Hostile input: every reader of outside data, given thousands of broken and malicious cases.

`python -m fuzz` runs them and prints a table; it takes minutes, so only a small profile is part of the tests.
"""
