"""In what two descriptions differ, and which of that may be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

from dskd_components.errors import CheckpointError, did_you_mean, what_came
from dskd_components.loss.checkpoints.frozen_weights import same_weights

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from dskd_components.loss.checkpoints.description import Description

NEVER_COMPARED: Final = ("format", "library_version", "vocabulary_method", "spec.engine")
"""What changes no number: engines differ in time and memory, and how tokenizers were mapped shows in the map."""

FROZEN_WEIGHTS: Final = ("heads.student.weights", "heads.teacher.weights")
"""What is compared within rounding."""

ONE_VALUE: Final = ("teacher_weight",)
"""What is compared as a whole, a number or a schedule: of its parts nobody could say whether they are not known."""

NOTHING: Final = "nothing"
"""What one description has in the place of something that only the other has."""

WHAT_TO_DO: Final = {
    "spec": "Build the loss from the saved spec: DSKDLoss.load does.",
    "hidden_sizes": "These are projectors between other models.",
    "tokenizers": "Give the tokenizers that the projectors were trained with; their ids mean something else otherwise.",
    "vocabulary_sizes": "Give the tokenizers that the projectors were trained with.",
    "heads": "Give the models that the projectors were trained with.",
    "kept_tokens": "Narrow the heads to the same tokens: student_tokens=..., teacher_tokens=..., other_tokens=....",
    "teacher_weight": "Give the teacher the weight that it had in training.",
    "vocabulary_map": "Map the vocabularies as they were mapped in training.",
    "plugins": "Install the versions that the projectors were trained with.",
}
"""By the first part of a path."""


def require_no_difference(
    saved: Description,
    own: Description,
    accept: Collection[str] = (),
    *,
    source: str = "The saved projectors",
    strict: bool = True,
) -> None:
    """Refuse to use what was learned for something else.

    Args:
        saved: the description in the files.
        own: that of the loss at hand.
        accept: paths whose differences are meant, ``"spec.kd_rate"`` for example, or ``"spec"`` for all below it.
        source: what the message calls the files.
        strict: whether a path to accept must be there although nothing else differs.

    Raises:
        CheckpointError: they differ, or a path to accept is none; the message has each path with both values.
    """
    accept = paths_to_accept(accept)
    before, now = dict(_leaves(saved.model_dump(mode="json"))), dict(_leaves(own.model_dump(mode="json")))
    if strict:
        _require_paths(accept, before | now)
    before, now = _of_one_form(before, now), _of_one_form(now, before)
    differing = [path for path in before | now if _differs(path, before, now) and not _is_below(path, accept)]
    if not differing:
        return
    _require_paths(accept, before | now)
    lines = [f"  {path}: saved {_shown(path, before)}, here {_shown(path, now)}" for path in differing]
    advice = dict.fromkeys(WHAT_TO_DO[path.partition(".")[0]] for path in differing)
    raise CheckpointError(
        f"{source}: expected projectors of this loss and these models, but there are differences:\n"
        + "\n".join(lines)
        + f"\n{' '.join(advice)} If a difference is meant: accept={differing}."
    )


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value that is no container, or that is compared as one, with its path."""
    if path in ONE_VALUE:
        yield path, value
    elif isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value:
        for number, part in enumerate(value):
            yield from _leaves(part, f"{path}[{number}]")
    elif not _is_below(path, NEVER_COMPARED):
        yield path, value


def _of_one_form(leaves: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Return leaves with those of one field of the spec joined where the other side has a single value for it.

    A schedule in the place of a number is one difference, not one for each of its fields.
    """
    joined: dict[str, Any] = {}
    for path, value in leaves.items():
        whole = next((other for other in others if path != other and _is_below(path, [other])), None)
        if whole is None or not whole.startswith("spec"):
            joined[path] = value
        else:
            joined.setdefault(whole, {})[path.removeprefix(whole).removeprefix(".")] = value
    return joined


def _differs(path: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    if not path.startswith("spec"):
        # Elsewhere None is what nobody knows, as without tokenizers or heads.
        known = before.get(_holder(path, before)) is not None and now.get(_holder(path, now)) is not None
        if not known and not path.startswith("plugins"):
            return False
    if path in FROZEN_WEIGHTS:
        return not same_weights(before.get(path), now.get(path))
    return bool(before.get(path, NOTHING) != now.get(path, NOTHING))


def _holder(path: str, leaves: Mapping[str, Any]) -> str:
    """Return the path, or that of the whole of which it is a part where there is no more to it."""
    while path not in leaves and "." in path:
        path = path.rpartition(".")[0]
    return path


def _is_below(path: str, paths: Collection[str]) -> bool:
    return any(path == other or path.startswith((f"{other}.", f"{other}[")) for other in paths)


def paths_to_accept(accept: Iterable[str]) -> tuple[str, ...]:
    """Return the differences that somebody means, once they are known to be a list of paths.

    Args:
        accept: paths, as the message about differences names them; they may be such as can be read only once.

    Raises:
        CheckpointError: they are none.

    Examples:
        >>> paths_to_accept(["spec.kd_rate"])
        ('spec.kd_rate',)
    """
    if isinstance(accept, str):
        raise CheckpointError(f"accept: expected paths, got the string {accept!r}. Write [{accept!r}].")
    is_list = isinstance(accept, Iterable)
    paths: tuple[Any, ...] = tuple(accept) if is_list else (accept,)
    wrong = [path for path in paths if not is_list or not isinstance(path, str)]
    if wrong:
        raise CheckpointError(
            f"accept: expected a list of paths, got {what_came(wrong[0])}{' in it' if is_list else ''}. Paths are "
            "those that the message about differences names, as ['spec.kd_rate']; () accepts none."
        )
    return paths


def _require_paths(accept: Collection[str], leaves: Mapping[str, Any]) -> None:
    for path in accept:
        if not any(_is_below(leaf, [path]) for leaf in leaves):
            raise CheckpointError(
                f"accept: nothing is called {path!r}{did_you_mean(path, list(leaves))}; paths are those that the "
                "message about differences names."
            )


def _shown(path: str, leaves: Mapping[str, Any]) -> str:
    value = leaves.get(path, NOTHING)
    text = value if value is NOTHING else repr(value)
    return (
        f"{text[:13]}...'"
        if (path.endswith((".weights", "vocabulary_map")) or "kept_tokens" in path) and len(text) > 20
        else text
    )
