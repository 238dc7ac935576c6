"""From texts, prompt/response pairs and chats to batches that two models with different tokenizers can read.

The way of a sample: `samples` reads it with `messages` and `token_samples`, `documents` renders it with
`chat_templates` and `content_places`, `side_encoder` makes `side_tokens` of it, `truncation` and `grouping` cut and
align both sides, `encoded` is the outcome, which `padding` makes a batch of; `dual_encoder` takes these steps in their
order. `collator`, `multi_teacher` and `preprocessor` are what users call, and `problems` what they are told. `viewing`
shows what became of a sample, as a `sample_view` with its `reasons`. Import the names below, or from the package.
"""

from dskd_components.collation.collator import DualTokenizerCollator
from dskd_components.collation.multi_teacher import MultiTeacherCollator
from dskd_components.collation.preprocessor import DualTokenizerPreprocessor
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.reasons import UnpairedReason, UnscoredReason
from dskd_components.collation.sample_view import MultiTeacherSampleView, SampleView
from dskd_components.collation.samples import Columns

__all__ = [
    "Columns",
    "DualTokenizerCollator",
    "DualTokenizerPreprocessor",
    "MultiTeacherCollator",
    "MultiTeacherSampleView",
    "SampleError",
    "SampleView",
    "SkipReason",
    "UnpairedReason",
    "UnscoredReason",
]
