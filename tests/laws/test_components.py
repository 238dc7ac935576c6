"""The laws of the conformance kit, for everything that is registered, with every option. Nothing is named here."""

from __future__ import annotations

from dskd_components.testing import laws_of, registered_variants

test_everything_registered = laws_of(*registered_variants(), max_examples=20)
