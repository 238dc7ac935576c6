"""A sample as both tokenizers are to read it: contents that both sides share, and where each side has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dskd_components.collation.chat_templates import ChatRenderer, Place, Rendered
from dskd_components.collation.problems import SampleError, SkipReason
from dskd_components.collation.samples import ChatSample, PairSample, Sample, TextSample


@dataclass(frozen=True)
class Content:
    """A part of a sample that both sides read.

    Attributes:
        text: The text.
        scored_from: From which of its bytes on tokens are scored; None: none are.
        ends_turn: Whether a special token that follows it is scored too, and belongs to the other side's.
    """

    text: str
    scored_from: int | None
    ends_turn: bool

    @cached_property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.text.encode())


@dataclass(frozen=True)
class RenderedSample:
    """A sample as both sides read it.

    Attributes:
        contents: What both sides read, in order.
        student: The student's text, and where it has the contents.
        teacher: The teacher's text, and where it has the contents.
        is_chat: Whether each side's text comes from its own chat template.
    """

    contents: tuple[Content, ...]
    student: Rendered
    teacher: Rendered
    is_chat: bool


class DocumentReader:
    """Turns samples into documents.

    Args:
        student: Renders chats for the student.
        teacher: Renders chats for the teacher.
        train_on_prompt: Whether prompts and all messages are scored.
    """

    def __init__(self, student: ChatRenderer, teacher: ChatRenderer, *, train_on_prompt: bool) -> None:
        self.student = student
        self.teacher = teacher
        self.train_on_prompt = train_on_prompt

    def read(self, sample: Sample) -> RenderedSample:
        """Return one sample as both sides read it.

        Raises:
            SampleError: It has nothing to learn from, or a chat template does not keep its contents.
        """
        match sample:
            case TextSample(text):
                if not text:
                    raise SampleError(SkipReason.EMPTY_TEXT, "Its text is empty.")
                return _whole(text, 0)
            case PairSample(prompt, response):
                if not response:
                    raise SampleError(SkipReason.EMPTY_RESPONSE, "Its response is empty; there is nothing to learn.")
                _require_unicode([prompt, response])
                return _whole(prompt + response, 0 if self.train_on_prompt else len(prompt.encode()))
            case ChatSample():
                return self._chat(sample)

    def _chat(self, sample: ChatSample) -> RenderedSample:
        contents = []
        for message in sample.messages:
            is_answer = message["role"] == "assistant"
            is_scored = is_answer or self.train_on_prompt
            contents.append(Content(message["content"] or "", 0 if is_scored else None, ends_turn=is_answer))
        _require_unicode([content.text for content in contents])
        scored = [content for content in contents if content.scored_from is not None]
        if not scored:
            roles = ", ".join(message["role"] for message in sample.messages) or "none"
            raise SampleError(
                SkipReason.NO_ASSISTANT_TURN, f"Its chat has no message of the role 'assistant'; its roles are {roles}."
            )
        if not any(content.text for content in scored):
            raise SampleError(SkipReason.EMPTY_RESPONSE, "All its assistant messages are empty.")
        student, teacher = (renderer.render(sample.messages) for renderer in (self.student, self.teacher))
        return RenderedSample(tuple(contents), student, teacher, is_chat=True)


def _whole(text: str, scored_from: int) -> RenderedSample:
    """One content that is the text of both sides."""
    _require_unicode([text])
    content = Content(text, scored_from, ends_turn=True)
    rendered = Rendered(text, (Place(0, 0, content.size),))
    return RenderedSample((content,), rendered, rendered, is_chat=False)


def _require_unicode(texts: Sequence[str]) -> None:
    for text in texts:
        try:
            if not text.isascii():
                text.encode()
        except UnicodeEncodeError as error:
            raise SampleError(
                SkipReason.INVALID_UNICODE,
                f"Its text has the lone surrogate {text[error.start]!r} at index {error.start}. Decode the source with "
                "errors='replace' or drop such characters.",
            ) from error
