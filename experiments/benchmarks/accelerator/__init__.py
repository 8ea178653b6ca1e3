"""What an accelerator does with the toolkit: first whether its answers are right, then how fast it gives them.

    python -m experiments.benchmarks.accelerator --out=DIR

Each part runs in a process of its own with a time limit of its own; results are printed and written as they come.
"""
