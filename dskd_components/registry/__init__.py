"""Finding components by name: installed plugins, loaded through their entry points on the first look-up."""

from dskd_components.registry.fields import AnyAligner, AnyDistance, AnyProjector, AnySpace, AnySpaces
from dskd_components.registry.lookup import (
    default_registry,
    get_aligner,
    get_distance,
    get_projector,
    get_space,
    list_components,
    use_plugins,
)
from dskd_components.registry.policy import PluginPolicy
from dskd_components.registry.registry import BrokenPlugin, ComponentInfo, DisabledPlugin, Registry

__all__ = [
    "AnyAligner",
    "AnyDistance",
    "AnyProjector",
    "AnySpace",
    "AnySpaces",
    "BrokenPlugin",
    "ComponentInfo",
    "DisabledPlugin",
    "PluginPolicy",
    "Registry",
    "default_registry",
    "get_aligner",
    "get_distance",
    "get_projector",
    "get_space",
    "list_components",
    "use_plugins",
]
