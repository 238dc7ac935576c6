"""The laws of spaces, for everything that is registered, with every option. Nothing is named here."""

from __future__ import annotations

from dskd_components.testing import laws_of
from tests.helpers.registered import by_claims

ONE_FOR_ALL_CLAIMS, OTHERS = by_claims("space")

test_every_space = laws_of(*ONE_FOR_ALL_CLAIMS, max_examples=20)
test_every_space_with_other_options = laws_of(*OTHERS, max_examples=10)
