"""What a plugin author reads: the contract of every kind of component, one file each."""

from dskd_components.contracts.aligner import Aligner, AlignerModule
from dskd_components.contracts.alignment import Alignment
from dskd_components.contracts.component import Component
from dskd_components.contracts.distance import Distance, DistanceGradients
from dskd_components.contracts.distribution import Distribution
from dskd_components.contracts.hookspecs import hookimpl
from dskd_components.contracts.projector import Projection, Projector, ProjectorHeads
from dskd_components.contracts.space import ComparedRows, Space
from dskd_components.contracts.terms import Tally, TokenTerm

__all__ = [
    "Aligner",
    "AlignerModule",
    "Alignment",
    "ComparedRows",
    "Component",
    "Distance",
    "DistanceGradients",
    "Distribution",
    "Projection",
    "Projector",
    "ProjectorHeads",
    "Space",
    "Tally",
    "TokenTerm",
    "hookimpl",
]
