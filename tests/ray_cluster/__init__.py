"""The proof on real Ray, with nodes, processes and their deaths: ``nox -s tests_ray``.

Not part of a plain ``pytest`` (see `collect_ignore` in tests/conftest.py), for it needs Ray, and takes
minutes. Where this is run, nothing is skipped.
"""
