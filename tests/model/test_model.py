"""Every state of each family keeps the promise, and each broken rule is found."""

import pytest

from .explore import explore
from .families import FAMILIES
from .mutations import MUTATIONS, Mutation
from .world import Family

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_promise_is_kept_in_every_state(family: Family) -> None:
    result = explore(family)
    assert result.found is None, str(result.found)
    assert result.is_complete
    assert result.settled > 1


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_broken_rule_is_found(mutation: Mutation) -> None:
    with mutation.applied():
        assert explore(BY_NAME[mutation.family], mutation.rules, mutation.make).found is not None
