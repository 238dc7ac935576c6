"""The laws of schedules, for everything that is registered, with every option. Nothing is named here."""

from __future__ import annotations

from dskd_components.testing import laws_of, registered_variants

test_every_schedule = laws_of(*registered_variants("schedule"), max_examples=20)
