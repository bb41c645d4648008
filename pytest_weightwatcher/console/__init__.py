"""``ww-gate``: describe, analyse and compare checkpoints on the command line.

Importing this package, and reading a command line, imports neither numpy nor the numerical core.
"""
