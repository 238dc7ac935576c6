"""The search for what helps: more arms than are compared, one seed, the dev texts alone."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from benchmarks.evidence.arms import BOTH_SPACES, HEADS, Arm, arms_of, heat
from benchmarks.evidence.plan import Run, vocabularies
from benchmarks.evidence.queue import next_rates, rates_tried
from benchmarks.evidence.shared_query import SharedQueryAttention
from dskd_components import DSKDSpec
from dskd_components.distances import KL
from dskd_components.spaces import SharedVocabularySpace, StudentSpace, TeacherSpace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from benchmarks.evidence.plan import Plan, SettingName
    from benchmarks.evidence.queue import Order

SHARED: Final[dict[str, Any]] = {"name": "uld_hybrid", "unmatched_weight": 0.0}
"""KL over the tokens that both vocabularies have."""

HYBRID: Final[dict[str, Any]] = {"name": "uld_hybrid"}

RISING: Final[dict[str, Any]] = {"name": "linear", "start": 0.0, "end": 1.0, "steps": 40}

FALLING: Final[dict[str, Any]] = {"name": "linear", "start": 0.8, "end": 0.2, "steps": 100}

PROJECTING: Final = (StudentSpace, TeacherSpace)

REFERENCES: Final[tuple[tuple[SettingName, str], ...]] = (
    ("two", "ce"),
    ("one", "ce"),
    ("two", "exact-heads"),
    ("one", "vanilla-kd"),
    ("two", "uld-hybrid"),
    ("one", "dskd-heads"),
)
"""Arms that are tuned first."""


def _light(share: float) -> dict[str, float]:
    """Return weights by which what is learned from projected states counts less beside what is learned without."""
    return {"t2s_kd": share, "s2t_kd": share}


def _variants(base: DSKDSpec, name: str) -> dict[str, tuple[DSKDSpec, dict[str, Any]]]:
    """Return an arm with both spaces, changed in one thing at a time."""
    student, teacher = BOTH_SPACES
    return {
        f"{name} kd 0.3": (base.replace(kd_rate=0.3), {}),
        f"{name} kd 0.7": (base.replace(kd_rate=0.7), {}),
        f"{name} kd 0.9": (base.replace(kd_rate=0.9), {}),
        f"{name} kd falling": (base.replace(kd_rate=FALLING), {}),
        f"{name} T 2": (base.replace(**heat(2.0)), {}),
        f"{name} t2s fixed": (base, {"projector_lr": 0.0}),
        f"{name} t2s fixed kd 0.8": (base.replace(kd_rate=0.8), {"projector_lr": 0.0}),
        f"{name} projectors x0.3": (base, {"projector_lr": 0.3}),
        f"{name} projectors x3": (base, {"projector_lr": 3.0}),
        f"{name} t2s_ce 0.1": (base.replace(spaces=(StudentSpace(ce_weight=0.1), teacher)), {}),
        f"{name} student's space": (base.replace(spaces=(student,)), {}),
        f"{name} student's space, t2s fixed": (base.replace(spaces=(student,)), {"projector_lr": 0.0}),
        f"{name} teacher's space": (base.replace(spaces=(teacher,)), {}),
        f"{name} teacher's space kd 0.8": (base.replace(spaces=(teacher,), kd_rate=0.8), {}),
        f"{name} student held": (base, {"held": 0.2}),
        f"{name} t2s_kd rising": (base.replace(weights={"t2s_kd": RISING}), {}),
        f"{name} correct": (base.replace(spaces=(StudentSpace(filter="correct"), teacher)), {}),
        f"{name} agreement": (base.replace(spaces=(StudentSpace(filter="agreement"), teacher)), {}),
        **{
            f"{name} {distance}": (base.replace(distance=distance, spaces=(StudentSpace(), TeacherSpace())), {})
            for distance in ("skew_kl", "js", "reverse_kl")
        },
    }


def _with(base: DSKDSpec, name: str, space: Any, title: str) -> dict[str, tuple[DSKDSpec, dict[str, Any]]]:
    """Return an arm whose spaces stand beside one that needs no projector."""
    student, teacher = BOTH_SPACES
    both, one = base.replace(spaces=(space, *BOTH_SPACES)), base.replace(spaces=(space, teacher))
    return {
        f"{name} + {title}": (both, {}),
        f"{name} + {title} kd 0.3": (both.replace(kd_rate=0.3), {}),
        f"{name} + {title} kd 0.8": (both.replace(kd_rate=0.8), {}),
        f"{name} + {title}, t2s fixed": (both, {"projector_lr": 0.0}),
        f"{name} + {title} T 2": (both.replace(**heat(2.0)), {}),
        f"{name} + {title} T 4": (both.replace(**heat(4.0)), {}),
        f"{name} + {title} T 2 kd 0.3": (both.replace(**heat(2.0), kd_rate=0.3), {}),
        f"{name} teacher's space + {title}": (one, {}),
        f"{name} teacher's space + {title} kd 0.8": (one.replace(kd_rate=0.8), {}),
        f"{name} student's space + {title}, t2s fixed": (
            base.replace(spaces=(space, student)),
            {"projector_lr": 0.0},
        ),
    }


def _one_vocabulary() -> dict[str, tuple[DSKDSpec, dict[str, Any]]]:
    heads, vanilla = DSKDSpec.preset("dskd", **HEADS), DSKDSpec.preset("vanilla-kd")
    v2 = DSKDSpec.preset("dskd-v2")
    softer = StudentSpace(targets="teacher_argmax", filter="agreement", ce_weight=0.1)
    return {
        "vanilla kd 0.9": (vanilla.replace(kd_rate=0.9), {}),
        "vanilla T 2 kd 0.9": (vanilla.replace(**heat(2.0), kd_rate=0.9), {}),
        **_with(heads, "dskd", SharedVocabularySpace(), "vanilla"),
        "vanilla T 4": (vanilla.replace(**heat(4.0)), {}),
        "vanilla T 4 kd 0.9": (vanilla.replace(**heat(4.0), kd_rate=0.9), {}),
        "vanilla kd 0.7": (vanilla.replace(kd_rate=0.7), {}),
        "vanilla skew_kl": (vanilla.replace(distance="skew_kl"), {}),
        "vanilla js": (vanilla.replace(distance="js"), {}),
        **_variants(heads, "dskd"),
        "v2 t2s_ce 0.1": (v2.replace(spaces=(softer, TeacherSpace(distance=KL()))), {}),
        "v2 t2s fixed": (v2, {"projector_lr": 0.0}),
    }


def _two_vocabularies() -> dict[str, tuple[DSKDSpec, dict[str, Any]]]:
    exact = DSKDSpec(aligner="exact_match", spaces=BOTH_SPACES, **HEADS)
    attention = exact.replace(aligner=SharedQueryAttention())
    hybrid = DSKDSpec(spaces=[HYBRID], aligner="exact_match", kd_rate=0.8)
    shared = DSKDSpec(spaces=[SHARED], aligner="exact_match")
    both = exact.replace(spaces=(SHARED, *BOTH_SPACES))
    return {
        **_with(exact, "exact", HYBRID, "hybrid"),
        "exact span + hybrid": (exact.replace(aligner="span", spaces=(HYBRID, *BOTH_SPACES)), {}),
        "hybrid kd 0.5": (hybrid.replace(kd_rate=0.5), {}),
        "hybrid kd 0.9": (hybrid.replace(kd_rate=0.9), {}),
        **_with(exact, "exact", SHARED, "shared"),
        **{f"shared kd {rate}": (shared.replace(kd_rate=rate), {}) for rate in (0.3, 0.65, 0.8)},
        **{f"shared T 2 kd {rate}": (shared.replace(**heat(2.0), kd_rate=rate), {}) for rate in (0.3, 0.65)},
        "shared T 8": (shared.replace(**heat(8.0)), {}),
        "shared T 4 kd 0.3": (shared.replace(**heat(4.0), kd_rate=0.3), {}),
        **{f"shared {distance}": (shared.replace(distance=distance), {}) for distance in ("skew_kl", "js")},
        "hybrid T 2": (hybrid.replace(**heat(2.0)), {}),
        "exact T 4": (exact.replace(**heat(4.0)), {}),
        "exact + shared, projected x0.3 T 4": (both.replace(**heat(4.0), weights=_light(0.3)), {}),
        **{
            f"exact + shared, projected x{share} T 2": (both.replace(**heat(2.0), weights=_light(share)), {})
            for share in (0.1, 0.3)
        },
        **{f"exact + shared, projected x{share}": (both.replace(weights=_light(share)), {}) for share in (0.1, 0.3)},
        "exact + shared, projected x0.3 kd 0.4": (both.replace(weights=_light(0.3), kd_rate=0.4), {}),
        "exact + shared, projected x0.3 kd 0.65": (both.replace(weights=_light(0.3), kd_rate=0.65), {}),
        **_variants(exact, "exact"),
        "span, t2s fixed": (exact.replace(aligner="span"), {"projector_lr": 0.0}),
        "span kd 0.7": (exact.replace(aligner="span", kd_rate=0.7), {}),
        "span + shared": (exact.replace(aligner="span", spaces=(SHARED, *BOTH_SPACES)), {}),
        "attention kd 0.3": (attention.replace(kd_rate=0.3), {}),
        "attention, t2s fixed": (attention, {"projector_lr": 0.0}),
        "attention, projectors x0.3": (attention, {"projector_lr": 0.3}),
        "attention, student held": (attention, {"held": 0.2}),
        "attention, t2s_kd rising": (attention.replace(weights={"t2s_kd": RISING}), {}),
        "attention + hybrid": (attention.replace(spaces=(HYBRID, *BOTH_SPACES)), {}),
    }


@cache
def searched(setting: SettingName) -> dict[str, Arm]:
    """Return the arms of the search that are no arms of the comparison, the most promising first.

    Args:
        setting: the setting.
    """
    found = _one_vocabulary() if vocabularies(setting) == "one" else _two_vocabularies()
    compared = [arm.spec for arm in arms_of(setting).values() if arm.teacher]
    return {
        _plain(title): Arm(title=title, spec=spec, **options)
        for title, (spec, options) in found.items()
        if options or spec not in compared
    }


def _plain(title: str) -> str:
    """Return a name that files can have."""
    return "-".join(re.findall(r"[\w.+]+", title.replace("'s", "")))


def arm_of(run: Run) -> Arm:
    """Return the arm of a run, of the comparison or of the search.

    Args:
        run: the run.
    """
    arms = arms_of(run.setting)
    return arms[run.arm] if run.arm in arms else searched(run.setting)[run.arm]


def title_of(setting: SettingName, arm: str) -> str:
    """Return what tables call an arm, of the comparison, of the search, or one that the code of today does not know.

    Args:
        setting: the setting.
        arm: the arm.
    """
    if arm in arms_of(setting):
        return arms_of(setting)[arm].title
    return f"`{searched(setting)[arm].title}`, of the search" if arm in searched(setting) else f"`{arm}`"


@cache
def all_searched() -> list[tuple[SettingName, str]]:
    """Return all arms of the search, those that are compared in the end among them, most promising first."""
    of_settings: list[list[tuple[SettingName, str]]] = []
    settings: tuple[SettingName, ...] = ("two", "one")
    for setting in settings:
        compared = [name for name, arm in arms_of(setting).items() if arm.longer == 1.0]
        others = list(searched(setting))
        first = [arm for arm in compared if (setting, arm) in REFERENCES]
        rest = [arm for arm in compared if arm not in first]
        of_settings.append([(setting, arm) for arm in (*first, *_mixed(others, rest))])
    return _mixed(*of_settings)


def _mixed(first: list[Any], second: list[Any]) -> list[Any]:
    """Return both lists, in turn, as far as the shorter one goes."""
    shorter = min(len(first), len(second))
    pairs = [item for pair in zip(first, second, strict=False) for item in pair]
    return [*pairs, *first[shorter:], *second[shorter:]]


def next_searched(finished: Mapping[Run, float], plan: Plan) -> Iterator[Run]:
    """Yield what can be tried next: references at all rates, each arm at one, then better arms at more rates.

    Args:
        finished: nats per byte of the dev texts by run.
        plan: has first rates and seeds.
    """
    arms = all_searched()
    first_of = plan.first_lr
    ways = [(setting, arm, rates_tried(finished, setting, arm, plan)) for setting, arm in arms]
    of_arms = {(setting, arm): next_rates(tried, first_of[setting], 2) for setting, arm, tried in ways}
    best = {(setting, arm): min(tried.values(), default=0.0) for setting, arm, tried in ways}
    untried = [(setting, arm) for setting, arm, tried in ways if not tried]
    # By the share of what cross entropy alone has, so that both settings have their turn.
    base: dict[SettingName, float] = {"one": best["one", "ce"] or 1.0, "two": best["two", "ce"] or 1.0}
    ranked = sorted(best, key=lambda key: best[key] / base[key[0]])
    found: dict[Run, None] = {}
    for setting, arm in REFERENCES:
        found |= {Run(setting, arm, rate, plan.seeds[0]): None for rate in of_arms[setting, arm]}
    found |= {Run(setting, arm, first_of[setting], plan.seeds[0]): None for setting, arm in untried}
    for setting, arm in ranked:
        found |= {Run(setting, arm, rate, plan.seeds[0]): None for rate in of_arms[setting, arm]}
    yield from found


def ranking(finished: Mapping[Run, float], plan: Plan) -> list[dict[str, Any]]:
    """Return what the search has found, by setting, the best arm first.

    Args:
        finished: as in `next_searched`.
        plan: as there.
    """
    rows: list[dict[str, Any]] = []
    settings: tuple[SettingName, ...] = ("one", "two")
    for setting in settings:
        tried = {arm: rates_tried(finished, setting, arm, plan) for name, arm in all_searched() if name == setting}
        tried = {arm: rates for arm, rates in tried.items() if rates}
        base = min(tried.get("ce", {}).values(), default=float("nan"))
        for arm in sorted(tried, key=lambda arm: min(tried[arm].values())):
            rates = tried[arm]
            rate = min(rates, key=rates.__getitem__)
            rows.append(
                {
                    "setting": setting,
                    "arm": arm,
                    "lr": rate,
                    "dev": rates[rate],
                    "minus ce": rates[rate] - base,
                    "tuned": not next_rates(rates, plan.first_lr[setting], 2),
                    "rates": {f"{each:g}": score for each, score in sorted(rates.items())},
                }
            )
    return rows


def best_of(rows: list[dict[str, Any]], vocabulary: str, count: int) -> tuple[str, ...]:
    """Return the arms that the search has found best, of those that are not compared anyway.

    One of them at least compares projected states with others.

    Args:
        rows: of `ranking`.
        vocabulary: ``"one"`` or ``"two"``.
        count: how many.
    """
    setting: SettingName = "one" if vocabulary == "one" else "two"
    arms = searched(setting)
    names = [row["arm"] for row in rows if row["setting"] == setting and row["arm"] in arms]
    projecting = [name for name in names if any(type(space) in PROJECTING for space in arms[name].spec.spaces)]
    chosen = names[:count]
    if projecting and not set(chosen) & set(projecting):
        chosen[-1] = projecting[0]
    return tuple(chosen)


def with_best(order: Order, rows: list[dict[str, Any]], count: int) -> Order:
    """Return the queue with what the search has found best in the first line of each setting.

    Args:
        order: the queue.
        rows: of `ranking`.
        count: how many arms are added to the settings ``one`` and ``two``; the others get the best one alone.
    """
    seen: set[SettingName] = set()
    found = []
    for setting, arms in order:
        kind = vocabularies(setting)
        more = () if setting in seen else best_of(rows, kind, count if setting == kind else 1)
        seen.add(setting)
        found.append((setting, (*arms, *(arm for arm in more if arm not in arms))))
    return tuple(found)


def listed(rows: list[dict[str, Any]]) -> str:
    """Return the ranking as lines of text.

    Args:
        rows: of `ranking`.
    """
    return "\n".join(
        f"{row['setting']:<4} {row['dev']:.4f} {row['minus ce']:+.4f} {row['lr']:<8g}{'' if row['tuned'] else '*':<2}"
        f"{row['arm']}"
        for row in rows
    )
