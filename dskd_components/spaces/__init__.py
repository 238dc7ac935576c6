"""Built-in spaces: where the logits of both models meet, one concept a file."""

from dskd_components.spaces.shared_vocabulary import SharedVocabularySpace
from dskd_components.spaces.student import StudentSpace
from dskd_components.spaces.teacher import TeacherSpace

__all__ = ["SharedVocabularySpace", "StudentSpace", "TeacherSpace"]
