"""`python -m bench`: the embedded rows of the budget table, measured.

Each row runs in a process of its own, on a database of its own, with the durable settings every user gets, and
prints one JSON object; the parent gathers them into a table beside the machine's physical floor and writes
``bench/results/latest.json``. Databases lie under ``bench/results`` too, on the disk of the checkout: a temporary
folder in memory would make fsync free.
"""
