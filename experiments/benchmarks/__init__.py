"""Measured claims about speed, one script each (`python -m experiments.benchmarks`); they print ratios, never pass or fail."""
