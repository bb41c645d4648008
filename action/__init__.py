"""The steps of the GitHub Action (``action.yml``), on the standard library alone.

Everything that comes from a pull request is hostile here: names of models, layers and files, and what pytest prints.
"""
