"""A sample as both tokenizers are to read it: contents that both sides share, and where each side has them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dskd_components.collation.assistant_turns import CALLS, THOUGHTS, Messages, other_fields
from dskd_components.collation.chat_templates import ChatRenderer, Rendered
from dskd_components.collation.content_places import Place
from dskd_components.collation.messages import Message, is_cut
from dskd_components.collation.problems import SampleError, SkipReason, require_unicode
from dskd_components.collation.samples import ChatSample, PairSample, TextSample
from dskd_components.errors import InputError
from dskd_components.models.states import Side


@dataclass(frozen=True)
class Content:
    """A part of a sample that both sides read.

    Attributes:
        text: The text.
        scored_from: From which of its bytes on tokens are scored; None: none are.
        ends_turn: Whether a special token that follows it is scored too, and belongs to the other side's.
        breaks_off_after: The last text that was written of it, if it breaks off: the text, or thoughts before it. What
            a tokenizer or a template puts after that is not scored. None: it does not.
    """

    text: str
    scored_from: int | None
    ends_turn: bool
    breaks_off_after: str | None = None

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

    @property
    def unread(self) -> dict[Side, tuple[str, ...]]:
        """By side, what its chat template was told and does not read."""
        return {"student": self.student.unread, "teacher": self.teacher.unread}


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

    def read(self, sample: TextSample | PairSample | ChatSample) -> RenderedSample:
        """Return one sample as both sides read it.

        Raises:
            SampleError: It has nothing to learn from, or a chat template does not keep its contents.
            InputError: Prompts are to be scored, but the teacher has one of its own; or a message is to be scored
                according to its weight, but not according to its role.
        """
        match sample:
            case TextSample(text, breaks_off):
                if not text:
                    raise SampleError(SkipReason.EMPTY_TEXT, "Its text is empty.")
                return _whole(text, 0, breaks_off=breaks_off)
            case PairSample(prompt, response, teacher_prompt, breaks_off):
                if not response:
                    raise SampleError(SkipReason.EMPTY_RESPONSE, "Its response is empty; there is nothing to learn.")
                require_unicode([prompt, response])
                if teacher_prompt is not None:
                    self._require_unscored_prompts()
                    return _after_prompts(prompt, teacher_prompt, response, breaks_off=breaks_off)
                scored_from = 0 if self.train_on_prompt else len(prompt.encode())
                return _whole(prompt + response, scored_from, breaks_off=breaks_off)
            case ChatSample():
                return self._chat(sample)

    def _chat(self, sample: ChatSample) -> RenderedSample:
        contents = [self._content(sample, number) for number in range(len(sample.messages))]
        turns = [
            number
            for number, (one, message) in enumerate(zip(contents, sample.messages, strict=True))
            if message["role"] == "assistant" and one.scored_from is not None
        ]
        require_unicode([content.text for content in contents])
        messages = _unweighted(sample.messages)
        self._require_scored(sample, contents, [messages[number] for number in turns])
        student = self.student.render(messages, sample.template_options, turns)
        if sample.teacher_prompt is None:
            teacher = self.teacher.render(messages, sample.template_options, turns)
            return RenderedSample(tuple(contents), student, teacher, is_chat=True)
        self._require_unscored_prompts()
        require_unicode([message.get("content") or "" for message in sample.teacher_prompt])
        completion = messages[sample.prompt_length :]
        further = len(sample.teacher_prompt) - sample.prompt_length
        teacher = self.teacher.render(
            (*_unweighted(sample.teacher_prompt), *completion),
            sample.template_options,
            [number + further for number in turns],
        )
        # The prompts are each side's own, as the template's words are; what both sides read is the completion.
        student, teacher = (
            replace(
                rendered,
                places=rendered.places[len(rendered.places) - len(completion) :],
                turns=rendered.turns[len(rendered.turns) - len(completion) :],
            )
            for rendered in (student, teacher)
        )
        return RenderedSample(tuple(contents[sample.prompt_length :]), student, teacher, is_chat=True)

    def _content(self, sample: ChatSample, number: int) -> Content:
        message = sample.messages[number]
        is_answer, weight = message["role"] == "assistant", message.get("weight")
        is_learned = (is_answer and number >= sample.prompt_length) or self.train_on_prompt
        if weight and not is_learned:
            raise InputError(
                f"Message {number} of the role {message['role']!r} has 'weight' {weight}, but only answers of the "
                "assistant that are not in a prompt are scored. Remove the weight, or use train_on_prompt=True."
            )
        text, is_scored = message.get("content") or "", is_learned and weight != 0
        if not is_cut("'finish_reason'", message.get("finish_reason")):
            return Content(text, 0 if is_scored else None, ends_turn=is_answer)
        calls = [name for name in CALLS if message.get(name)]
        if calls and is_scored:
            raise SampleError(
                SkipReason.CUT_OFF,
                f"Message {number} has 'finish_reason' {message['finish_reason']!r} and {calls[0]!r}: where a call "
                "breaks off cannot be told from it. Leave the message out, or write to its content what was written.",
            )
        return Content(text, 0 if is_scored else None, ends_turn=False, breaks_off_after=text or _thoughts(message))

    def _require_scored(self, sample: ChatSample, contents: Sequence[Content], turns: Messages) -> None:
        roles = [message["role"] for message in sample.messages[sample.prompt_length :]]
        if "assistant" not in roles and not (self.train_on_prompt and contents):
            what = "Of this chat, its completion" if sample.prompt_length else "Its chat"
            raise SampleError(
                SkipReason.NO_ASSISTANT_TURN,
                f"{what} has no message of the role 'assistant'; its roles are {', '.join(roles) or 'none'}.",
            )
        scored = [content for content in contents if content.scored_from is not None]
        if not scored:
            raise SampleError(SkipReason.NOTHING_SCORED, "All its messages to learn from have 'weight' 0.")
        if not any(content.text for content in scored) and not any(map(other_fields, turns)):
            raise SampleError(SkipReason.EMPTY_RESPONSE, "All its assistant messages are empty.")

    def _require_unscored_prompts(self) -> None:
        """Refuse to score prompts that are not the same for both sides.

        Raises:
            InputError: Prompts are to be scored.
        """
        if self.train_on_prompt:
            raise InputError(
                "It has a 'teacher_prompt', so the prompts of the two sides differ and cannot be scored: use "
                "train_on_prompt=False, or leave it out."
            )


def _thoughts(message: Message) -> str:
    """The last thoughts of a message, empty if there are none."""
    return next((str(message[name]) for name in THOUGHTS if message.get(name)), "")


def _unweighted(messages: Messages) -> Messages:
    """Messages without what is not for templates: whether they are scored, and why they stop."""
    own = ("weight", "finish_reason")
    return [{key: value for key, value in message.items() if key not in own} for message in messages]


def _whole(text: str, scored_from: int, *, breaks_off: bool) -> RenderedSample:
    """One content that is the text of both sides."""
    require_unicode([text])
    content = _of_text(text, scored_from, breaks_off=breaks_off)
    rendered = Rendered(text, (Place(0, 0, content.size),), (None,))
    return RenderedSample((content,), rendered, rendered, is_chat=False)


def _of_text(text: str, scored_from: int, *, breaks_off: bool) -> Content:
    return Content(text, scored_from, ends_turn=not breaks_off, breaks_off_after=text if breaks_off else None)


def _after_prompts(student_prompt: str, teacher_prompt: str, response: str, *, breaks_off: bool) -> RenderedSample:
    """A response that each side reads after a prompt of its own."""
    require_unicode([student_prompt, teacher_prompt])
    content = _of_text(response, 0, breaks_off=breaks_off)
    student, teacher = (
        Rendered(prompt + response, (Place(len(prompt.encode()), 0, content.size),), (None,))
        for prompt in (student_prompt, teacher_prompt)
    )
    return RenderedSample((content,), student, teacher, is_chat=False)
