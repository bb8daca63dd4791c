"""The mutations fit the package; that the tests kill them is shown by `nox -s mutants`."""

from __future__ import annotations

from pathlib import Path

import pytest

import trio_claude
from tests.mutants.mutations import MUTATIONS, SHORT, Mutation

PACKAGE = Path(trio_claude.__file__).parent


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mutation_fits(mutation: Mutation) -> None:
    """Its old text is in its file exactly once, and what replaces it is other code that compiles."""
    text = (PACKAGE / mutation.file).read_text(encoding="utf-8")
    assert 1 == text.count(mutation.old)
    mutated = text.replace(mutation.old, mutation.new)
    assert mutated != text
    compile(mutated, mutation.file, "exec")


def test_names_are_unique_and_the_short_ones_are_known() -> None:
    """So that a name given on the command line is one mutation."""
    names = [mutation.name for mutation in MUTATIONS]
    assert len(set(names)) == len(names)
    assert set(SHORT) <= set(names)
