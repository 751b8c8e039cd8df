"""The exactness tests at many times the size, which sees smaller biases: `tox -e long`."""

import pytest

from fktext.testing.exact import checks

pytestmark = pytest.mark.long


def test_every_case_with_many_populations():
    assert [check for check in checks(populations=8_000, seed=1) if not check.passed] == []
