"""The benchmark: what trio_claude costs beside what a Trio program could use instead.

``python -m tests.benchmarks.run`` measures the rows of `rows` and prints them; docs/benchmarks has
the figures and says how each is taken. No test judges by time: these are not tests.
"""
