"""Chat templates that read a content as a list of parts, as those of vision models do."""

from collections.abc import Callable, Sequence
from typing import Any, Final

PROBES: Final = ("xFirstProbex", "xSecondProbex")


def as_parts(content: str | None) -> list[dict[str, str]]:
    """Return a content as a list of one text part, or of none if there is no text."""
    return [{"type": "text", "text": content}] if content else []


def reads_parts_alone(apply: Callable[[list[dict[str, Any]]], str]) -> bool:
    """Return whether a template drops contents that are texts, and writes those of parts.

    Args:
        apply: Renders messages with the template.
    """
    texts, parts = _rendered(apply, PROBES), _rendered(apply, [as_parts(probe) for probe in PROBES])
    if any(probe in texts for probe in PROBES) or not all(probe in parts for probe in PROBES):
        return False
    # A template that knows of no parts writes a list as Python or JSON does.
    return "'text'" not in parts and '"text"' not in parts


def _rendered(apply: Callable[[list[dict[str, Any]]], str], contents: Sequence[Any]) -> str:
    try:
        return apply([{"role": "user", "content": contents[0]}, {"role": "assistant", "content": contents[1]}])
    except Exception:
        # Whatever a template raises; what it refuses it does not read.
        return ""
