"""Built-in spaces: where the logits of both models meet, one concept a file."""

from dskd_components.spaces.shared_tokens import SharedTokensSpace
from dskd_components.spaces.shared_vocabulary import SharedVocabularySpace
from dskd_components.spaces.student import StudentSpace
from dskd_components.spaces.teacher import TeacherSpace

BUILT_IN = (StudentSpace, TeacherSpace, SharedVocabularySpace, SharedTokensSpace)
"""What `dskd_components.builtin` offers to the registry, in the order of its lists."""

__all__ = ["SharedTokensSpace", "SharedVocabularySpace", "StudentSpace", "TeacherSpace"]
