"""What training costs on this machine, beside what it cannot cost less than.

    python -m experiments.benchmarks.throughput

See `__main__` for its flags.
"""
