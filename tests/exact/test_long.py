"""The exactness tests at ten times the size, which sees a third of the bias: `tox -e long`."""

import pytest

from fktext.testing.exact import checks

pytestmark = pytest.mark.long


@pytest.mark.parametrize("seed", [1, 2])
def test_every_case_with_many_populations(seed):
    assert [check for check in checks(populations=12_000, seed=seed) if not check.passed] == []
