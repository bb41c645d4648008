"""Checkpoints that mean harm: written by a script, and read under guard.

``python -m tests.hostile FOLDER`` writes them all, each in a folder of its own.
"""
