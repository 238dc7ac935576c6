"""What a plugin author reads: the contract of every kind of component, one file each."""

from dskd_components.contracts.aligner import Aligner, AlignerModule
from dskd_components.contracts.alignment import Alignment
from dskd_components.contracts.component import Component
from dskd_components.contracts.distance import Distance, DistanceGradients
from dskd_components.contracts.distribution import Distribution
from dskd_components.contracts.hookspecs import hookimpl
from dskd_components.contracts.projector import Affine, Projection, Projector, ProjectorHeads
from dskd_components.contracts.shared_tokens import SharedTokens
from dskd_components.contracts.space import ComparedRows, Direction, Measure, Space, SpaceResult
from dskd_components.contracts.terms import Denominator, Tally, TokenTerm
from dskd_components.models.states import Side

__all__ = [
    "Affine",
    "Aligner",
    "AlignerModule",
    "Alignment",
    "ComparedRows",
    "Component",
    "Denominator",
    "Direction",
    "Distance",
    "DistanceGradients",
    "Distribution",
    "Measure",
    "Projection",
    "Projector",
    "ProjectorHeads",
    "SharedTokens",
    "Side",
    "Space",
    "SpaceResult",
    "Tally",
    "TokenTerm",
    "hookimpl",
]
