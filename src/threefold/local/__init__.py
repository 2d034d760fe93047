"""Everything on one machine: what `threefold init` writes, and `threefold up` runs.

The same code and the same protocols as three clouds, as separate processes, so that each can be killed on its own.
"""
