"""The conformance kit: strategies and laws for components, and for anybody's loss maths. Needs ``hypothesis``.

``pip install "dskd-components[testing]"``. In a test file, one line gives a test for each law::

    test_my_distance = laws_of(MyDistance())

Without a component, without the registry, any function of that shape will do::

    check_distance(my_function).raise_if_failed()
"""

from dskd_components.testing import laws, strategies
from dskd_components.testing.checks import (
    check_aligner,
    check_component,
    check_distance,
    check_projector,
    check_schedule,
    check_space,
)
from dskd_components.testing.law import Law
from dskd_components.testing.law_tests import laws_of
from dskd_components.testing.laws import laws_about
from dskd_components.testing.plugin_checks import check_classes, check_plugin, registered_variants
from dskd_components.testing.report import CheckReport, LawResult
from dskd_components.testing.trial import LawViolationError, require_law
from dskd_components.testing.variants import variants

__all__ = [
    "CheckReport",
    "Law",
    "LawResult",
    "LawViolationError",
    "check_aligner",
    "check_classes",
    "check_component",
    "check_distance",
    "check_plugin",
    "check_projector",
    "check_schedule",
    "check_space",
    "laws",
    "laws_about",
    "laws_of",
    "registered_variants",
    "require_law",
    "strategies",
    "variants",
]
