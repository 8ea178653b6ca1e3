"""What an accelerator does with the toolkit: are its answers right, and how fast do they come?

    python -m experiments.benchmarks.accelerator --out=DIR

Each part runs in a process of its own with a time limit of its own; results are printed and written
as they come.
"""
