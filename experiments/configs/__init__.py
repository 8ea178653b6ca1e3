"""Experiments, one a file: `get_config(variant)` returns the configuration.

The docstring gives its command and what it measured.
"""
