"""Experiments, one a file: `get_config(variant)` returns the configuration; the docstring gives its command and what it measured."""
