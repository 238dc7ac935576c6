"""What a component is, and how it is found: the contract of every kind, the hooks, and the registry of plugins.

What a plugin author reads, one file for each contract: `component`, `distance` (with `distribution`), `aligner` (with
`alignment`), `projector` (with `vocabulary`), `space` (with `terms`, `group_space`), `column_reader` for both of these,
`schedule`, and `hookspecs`. `space_modules` calls what was built for a space. How components are found by name:
`registry` with `loading` and `policy`, `lookup` for the registry of the process, `fields` for specs. Plugins import the
names below, most of them from `dskd_components` itself.
"""

from dskd_components.components.aligner import Aligner, AlignerModule
from dskd_components.components.alignment import Alignment
from dskd_components.components.component import Component
from dskd_components.components.distance import Distance, DistanceGradients, PartOfDistances
from dskd_components.components.distribution import Distribution
from dskd_components.components.fields import AnyAligner, AnyDistance, AnyProjector, AnySpace, AnySpaces
from dskd_components.components.group_space import ComparedGroups, GroupRows, GroupSpace
from dskd_components.components.hookspecs import hookimpl
from dskd_components.components.lookup import (
    default_registry,
    get_aligner,
    get_distance,
    get_projector,
    get_schedule,
    get_space,
    list_components,
    use_plugins,
)
from dskd_components.components.policy import PluginPolicy
from dskd_components.components.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.components.registry import BrokenPlugin, ComponentInfo, DisabledPlugin, Registry
from dskd_components.components.schedule import Schedule
from dskd_components.components.space import ComparedRows, Direction, Measure, SharedTokens, Space, SpaceResult
from dskd_components.components.terms import Denominator, Tally, TokenTerm
from dskd_components.components.vocabulary import ComparedTokens, Vocabulary
from dskd_components.models.states import Side

__all__ = [
    "Affine",
    "Aligner",
    "AlignerModule",
    "Alignment",
    "AnyAligner",
    "AnyDistance",
    "AnyProjector",
    "AnySpace",
    "AnySpaces",
    "BrokenPlugin",
    "ComparedGroups",
    "ComparedRows",
    "ComparedTokens",
    "Component",
    "ComponentInfo",
    "Denominator",
    "Direction",
    "DisabledPlugin",
    "Distance",
    "DistanceGradients",
    "Distribution",
    "GroupRows",
    "GroupSpace",
    "Measure",
    "PartOfDistances",
    "PluginPolicy",
    "Projection",
    "Projector",
    "ProjectorHeads",
    "Registry",
    "Schedule",
    "SharedTokens",
    "Side",
    "Space",
    "SpaceResult",
    "Tally",
    "TokenTerm",
    "Vocabulary",
    "default_registry",
    "get_aligner",
    "get_distance",
    "get_projector",
    "get_schedule",
    "get_space",
    "hookimpl",
    "list_components",
    "use_plugins",
]
