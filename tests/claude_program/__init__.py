"""The proof on the real ``claude`` program, answered by the simulator: ``nox -s tests_cli``.

Not part of a plain ``pytest`` (see `collect_ignore` in tests/conftest.py), for it needs the program,
which comes with the package ``claude-agent-sdk``: 380 MB. Where this is run, nothing is skipped.
"""
