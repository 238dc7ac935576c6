"""From texts, prompt/response pairs and chats to batches that two models with different tokenizers can read."""

from dskd_components.collation.collator import DualTokenizerCollator
from dskd_components.collation.multi_teacher import MultiTeacherCollator
from dskd_components.collation.preprocessor import DualTokenizerPreprocessor
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.samples import Columns

__all__ = [
    "Columns",
    "DualTokenizerCollator",
    "DualTokenizerPreprocessor",
    "MultiTeacherCollator",
    "SampleError",
    "SkipReason",
]
