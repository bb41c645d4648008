"""Fuzzing of every parser that reads checkpoints, and the corpus that it left behind."""
