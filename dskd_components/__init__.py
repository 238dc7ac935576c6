"""Pluggable loss components for Dual-Space Knowledge Distillation between language models.

Compose a loss from a spec and call it in any training loop::

    spec = DSKDSpec.preset("dskd-cma")
    loss_fn = DSKDLoss.from_models(spec, student, teacher, student_tokenizer, teacher_tokenizer)
    out = loss_fn.run(student, teacher, batch)
    out.loss.backward()

Importing this package loads neither `transformers` nor any plugin; plugins are loaded by the first look-up by name.

The names of ``__all__`` are the library's interface. Its folders are rooms, and each room's ``__init__`` says what
lives there. A module or name that begins with an underscore is private to its room.
"""

from dskd_components._version import __version__
from dskd_components.aligners import TextAligner, align_text
from dskd_components.collation import DualTokenizerCollator, DualTokenizerPreprocessor, MultiTeacherCollator
from dskd_components.components import (
    Aligner,
    AlignerModule,
    Alignment,
    ComparedGroups,
    ComparedRows,
    ComparedTokens,
    Distance,
    GroupRows,
    GroupSpace,
    Projection,
    Projector,
    ProjectorHeads,
    Schedule,
    Space,
    Tally,
    TokenTerm,
    get_aligner,
    get_distance,
    get_projector,
    get_schedule,
    get_space,
    hookimpl,
    list_components,
    use_plugins,
)
from dskd_components.components.space import SpaceResult
from dskd_components.errors import (
    CheckpointError,
    ConfigurationError,
    DSKDError,
    DSKDWarning,
    InputError,
    NonFiniteError,
    PluginError,
    PluginWarning,
    StoreError,
    UnknownComponentError,
)
from dskd_components.loss.clipping import clip_grad_norms
from dskd_components.loss.dskd_loss import DSKDLoss
from dskd_components.loss.multi_teacher import MultiTeacherLoss
from dskd_components.loss.output import DSKDOutput
from dskd_components.loss.training_checkpoint import load_checkpoint, save_checkpoint
from dskd_components.models.aux_loss import AuxLoss
from dskd_components.models.head import Head
from dskd_components.models.scored_tokens import scored_tokens
from dskd_components.models.states import LMStates
from dskd_components.models.token_groups import TokenGroups
from dskd_components.models.vocabulary_subset import VocabularySubset
from dskd_components.preflight import Finding, PreflightReport
from dskd_components.spec import SpecFileError, load_multi_teacher_spec, load_spec
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.multi_teacher import MultiTeacherSpec, TeacherSpec
from dskd_components.store import ReadAheadCollator, TeacherCache, TeacherStore
from dskd_components.tokenization import TokenizedText, VocabularyMap, build_vocabulary_map

__all__ = [
    "Aligner",
    "AlignerModule",
    "Alignment",
    "AuxLoss",
    "CheckpointError",
    "ComparedGroups",
    "ComparedRows",
    "ComparedTokens",
    "ConfigurationError",
    "DSKDError",
    "DSKDLoss",
    "DSKDOutput",
    "DSKDSpec",
    "DSKDWarning",
    "Distance",
    "DualTokenizerCollator",
    "DualTokenizerPreprocessor",
    "Finding",
    "GroupRows",
    "GroupSpace",
    "Head",
    "InputError",
    "LMStates",
    "MultiTeacherCollator",
    "MultiTeacherLoss",
    "MultiTeacherSpec",
    "NonFiniteError",
    "PluginError",
    "PluginWarning",
    "PreflightReport",
    "Projection",
    "Projector",
    "ProjectorHeads",
    "ReadAheadCollator",
    "Schedule",
    "Space",
    "SpaceResult",
    "SpecFileError",
    "StoreError",
    "Tally",
    "TeacherCache",
    "TeacherSpec",
    "TeacherStore",
    "TextAligner",
    "TokenGroups",
    "TokenTerm",
    "TokenizedText",
    "UnknownComponentError",
    "VocabularyMap",
    "VocabularySubset",
    "__version__",
    "align_text",
    "build_vocabulary_map",
    "clip_grad_norms",
    "get_aligner",
    "get_distance",
    "get_projector",
    "get_schedule",
    "get_space",
    "hookimpl",
    "list_components",
    "load_checkpoint",
    "load_multi_teacher_spec",
    "load_spec",
    "save_checkpoint",
    "scored_tokens",
    "use_plugins",
]
