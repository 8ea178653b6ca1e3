"""Measured claims about speed, one script each (`python -m experiments.benchmarks`).

They print ratios, never pass or fail.
"""
