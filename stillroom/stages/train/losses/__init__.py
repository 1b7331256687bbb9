"""One file a loss: the pure function, then its term; `table.py` has all of them by name.

Nothing is imported here, so that `losses.fitnet` is always the file and `losses.fitnet.fitnet` the
function.
"""
