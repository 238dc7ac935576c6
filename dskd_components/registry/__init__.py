"""Finding components by name: installed plugins, loaded through their entry points on the first look-up."""

from dskd_components.registry.fields import AnyAligner, AnyDistance, AnyProjector, AnySpace, AnySpaces
from dskd_components.registry.lookup import (
    default_registry,
    get_aligner,
    get_distance,
    get_projector,
    get_space,
    list_components,
)
from dskd_components.registry.registry import BrokenPlugin, ComponentInfo, Registry

__all__ = [
    "AnyAligner",
    "AnyDistance",
    "AnyProjector",
    "AnySpace",
    "AnySpaces",
    "BrokenPlugin",
    "ComponentInfo",
    "Registry",
    "default_registry",
    "get_aligner",
    "get_distance",
    "get_projector",
    "get_space",
    "list_components",
]
