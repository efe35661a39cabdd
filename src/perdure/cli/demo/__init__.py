"""`perdure demo`: 200 orders, a real ``kill -9`` half-way, and a proof of what happened.

The director (`direct`) starts the process that does the work (`cast`), watches the ledger that the outside world
keeps, kills the process, looks at what the database holds, starts a second one, and at the end has the ledger
examined by `proof`, which is pure.
"""
