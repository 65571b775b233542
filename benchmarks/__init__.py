"""Measurements of the server's speed: ``python -m benchmarks``, which ``make bench`` runs.

Each experiment is a module with ``run(bench) -> list[Table | Plot]``, and has a row in
``__main__.EXPERIMENTS``. ``bench`` starts the processes, ``servers`` knows how each server is
started, ``load`` sends the requests, ``report`` writes the results.

One machine differs from another, and one minute from the next. So an experiment measures its
servers in turn, for several short rounds, and compares the two figures of the same round.
"""
