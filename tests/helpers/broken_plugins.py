"""Plugins that are broken, one for each way of it, with what the report says."""

from __future__ import annotations

from dskd_components import __version__
from tests.helpers.fake_distributions import FakeDistribution

# What is wrong -> (source of the module, what the report says beside plugin, distribution and version).
SOURCES: dict[str, tuple[str, list[str]]] = {
    "raises on import": ("raise RuntimeError('boom')", ["cannot be imported", "RuntimeError: boom"]),
    "imports what is not there": (
        "import not_there_at_all",
        ["cannot be imported", "No module named 'not_there_at_all'"],
    ),
    "is not Python": ("def (:", ["cannot be imported", "SyntaxError"]),
    "skips, as a test would": (
        "import pytest\npytest.skip('no GPU', allow_module_level=True)",
        ["cannot be imported", "Skipped: no GPU"],
    ),
    "leaves the interpreter": ("raise SystemExit('good bye')", ["cannot be imported", "SystemExit: good bye"]),
    "looks a component up on import": (
        "from dskd_components import get_distance\nget_distance('kl')",
        ["cannot be imported", "while plugins are being loaded"],
    ),
    "class with a name that is not a Literal": (
        """
        class Misnamed(Distance):
            name: str = "misnamed"
        """,
        ["cannot be imported", "Misnamed.name", 'Literal["my_name"]'],
    ),
    "class whose default is not its name": (
        """
        class Misnamed(Distance):
            name: Literal["one"] = "other"
        """,
        ["cannot be imported", "Misnamed.name", "'other'"],
    ),
    "module that cannot be looked into": (
        """
        def __dir__():
            raise ImportError("the optional part is missing")
        """,
        ["cannot be inspected", "ImportError: the optional part is missing"],
    ),
    "no hook": ("", ["implements no hook", "@hookimpl", "dskd_distances"]),
    "hook without its mark": (
        """
        def dskd_distances():
            return []
        """,
        ["implements no hook", "@hookimpl"],
    ),
    "misspelt hook": (
        """
        @hookimpl
        def dskd_distance():
            return [distance_class("broken")]
        """,
        ["unknown hook 'dskd_distance'", "did you mean 'dskd_distances'", "dskd_spaces"],
    ),
    "hook with arguments": (
        """
        @hookimpl
        def dskd_distances(config):
            return [distance_class("broken")]
        """,
        ["wrong signature", "dskd_distances", "config"],
    ),
    "hook that raises": (
        """
        @hookimpl
        def dskd_distances():
            raise KeyError("lost")
        """,
        ["dskd_distances failed", "KeyError: 'lost'"],
    ),
    "hook that leaves the interpreter": (
        """
        @hookimpl
        def dskd_distances():
            raise SystemExit(3)
        """,
        ["dskd_distances failed", "SystemExit: 3"],
    ),
    "hook that raises late": (
        """
        @hookimpl
        def dskd_distances():
            yield distance_class("broken")
            raise KeyError("lost")
        """,
        ["dskd_distances failed", "KeyError: 'lost'"],
    ),
    "hook without return": (
        """
        @hookimpl
        def dskd_distances():
            [distance_class("broken")]
        """,
        ["dskd_distances returned None", "expected a list of classes"],
    ),
    "hook that returns a class": (
        """
        @hookimpl
        def dskd_distances():
            return distance_class("broken")
        """,
        ["dskd_distances returned", "Some", "expected a list of classes"],
    ),
    "hook that returns a name": (
        """
        @hookimpl
        def dskd_distances():
            return "broken"
        """,
        ["dskd_distances returned 'broken'", "expected a list of classes"],
    ),
    "hook that returns a mapping": (
        """
        @hookimpl
        def dskd_distances():
            return {"broken": distance_class("broken")}
        """,
        ["dskd_distances returned {'broken'", "expected a list of classes"],
    ),
    "instance": (
        """
        @hookimpl
        def dskd_distances():
            return [distance_class("broken")()]
        """,
        ["Some(name='broken')", "expected classes, not instances"],
    ),
    "class of another kind": (
        """
        @hookimpl
        def dskd_aligners():
            return [distance_class("broken")]
        """,
        ["dskd_aligners", "Some", "expected subclasses of Aligner"],
    ),
    "class of no kind": (
        """
        @hookimpl
        def dskd_projectors():
            return [dict]
        """,
        ["dskd_projectors", "<class 'dict'>", "expected subclasses of Projector"],
    ),
    "abstract class": (
        """
        class Unfinished(Space):
            name: Literal["broken"] = "broken"
        @hookimpl
        def dskd_spaces():
            return [Unfinished]
        """,
        ["dskd_spaces", "Unfinished", "abstract", "must define compare"],
    ),
    "class without a name": (
        """
        class Nameless(Distance):
            def __call__(self, student_log_probs, teacher_log_probs):
                return student_log_probs.sum(-1)
        @hookimpl
        def dskd_distances():
            return [Nameless]
        """,
        ["dskd_distances", "Nameless has no name", 'Literal["my_name"]'],
    ),
    "class with an empty name": (
        """
        @hookimpl
        def dskd_distances():
            return [distance_class("")]
        """,
        ["dskd_distances", "Some", "whose name is ''", "expected a letter"],
    ),
    "class with a name that no list can show": (
        """
        @hookimpl
        def dskd_distances():
            return [distance_class("bro\\nken")]
        """,
        ["dskd_distances", "Some", r"whose name is 'bro\nken'"],
    ),
    "class with an option of an unknown type": (
        """
        class Unresolved(distance_class("broken")):
            path: "Path | None" = None
        @hookimpl
        def dskd_distances():
            return [Unresolved]
        """,
        ["dskd_distances", "Unresolved", "name 'Path' is not defined", "TYPE_CHECKING"],
    ),
    "object that cannot be shown": (
        """
        class Nonsense:
            def __repr__(self):
                raise RuntimeError("not shown")
        @hookimpl
        def dskd_distances():
            return [Nonsense()]
        """,
        ["cannot be inspected", "RuntimeError: not shown"],
    ),
    "one bad class among good ones": (
        """
        @hookimpl
        def dskd_distances():
            return [distance_class("broken"), 3]
        """,
        ["dskd_distances returned 3", "expected classes"],
    ),
}
NO_PREAMBLE = {"is not Python"}
BROKEN = {
    case: (FakeDistribution("broken-plugin", source, "2.7.1", preamble=case not in NO_PREAMBLE), fragments)
    for case, (source, fragments) in SOURCES.items()
} | {
    "entry point that names nothing": (
        FakeDistribution("broken-plugin", "", "2.7.1", value="broken_plugin:Absent"),
        ["cannot be imported from 'broken_plugin:Absent'", "AttributeError"],
    ),
    "entry point that is not a name": (
        FakeDistribution("broken-plugin", "", "2.7.1", value="not a module!"),
        ["cannot be imported from 'not a module!'"],
    ),
}

METADATA = "Metadata-Version: 2.4\nName: broken-plugin\nVersion: 2.7.1\nRequires-Dist: {}\n"
for case, requirement in {
    "wants a newer library": "dskd-components>=99",
    "wants an older library": "DSKD_Components <0.0.1 ; python_version >= '3'",
}.items():
    BROKEN[case] = (
        FakeDistribution("broken-plugin", "raise RuntimeError", "2.7.1", metadata=METADATA.format(requirement)),
        [f"and dskd-components {__version__} is installed", "needs dskd-components"],
    )
