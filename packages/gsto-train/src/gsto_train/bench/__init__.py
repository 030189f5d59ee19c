"""How fast: interleaved measurements of subjects that compute the same thing (`gsto-bench`).

`cases` says what is measured, `subjects` who computes it, `tasks` what is done once; a `worker` is a process
that does one task, `rounds` interleaves workers, `figures` makes numbers of the durations, `ceilings` sets
them against what the machine can do, and `results`, `table` and `plot` show them.
"""
