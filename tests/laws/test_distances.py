"""The laws of distances, for everything that is registered, with every option. Nothing is named here."""

from __future__ import annotations

from dskd_components.testing import laws_of, registered_variants

test_every_distance = laws_of(*registered_variants("distance"), max_examples=20)
