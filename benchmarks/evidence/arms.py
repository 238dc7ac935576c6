"""What the students of a setting learn from, and in which order they are trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from benchmarks.evidence.plan import vocabularies
from benchmarks.evidence.shared_query import SharedQueryAttention
from dskd_components import DSKDSpec
from dskd_components.aligners import CrossModelAttentionModule, ExactMatch
from dskd_components.distances import KL
from dskd_components.spaces import SharedVocabularySpace, StudentSpace, TeacherSpace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.evidence.plan import SettingName
    from dskd_components import Aligner

HEADS: Final[dict[str, Any]] = {"t2s_projector": "pinv", "s2t_projector": "live_pinv"}
"""Projectors that start from the heads; the one to the teacher's space stays there."""

LOOKED_AT: Final[dict[SettingName, tuple[str, ...]]] = {
    "one": ("ce", "vanilla-kd", "dskd", "dskd-heads", "dskd-v2"),
    "two": ("ce", "dskd-cma", "exact-linear", "exact-heads", "dskd-v2-eta"),
}
"""Whose students are kept, and their projections looked at."""

RECOMMENDED: Final[dict[str, tuple[str, ...]]] = {"one": ("dskd-vanilla",), "two": ("strict-T-4",)}
"""Which arms are the presets ``recommended-one-vocabulary`` and ``recommended-two-vocabularies``. A search on the dev
texts has found them; they are compared in every setting, and with all rivals."""

BOTH_SPACES: Final = (StudentSpace(), TeacherSpace(distance=KL()))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """What students learn from.

    Args:
        title: for tables.
        spec: of the loss; of an arm without a teacher, only for the columns that its batches have.
        teacher: whether there is a teacher.
        longer: how many times as many steps it has.
        vocabulary_method: as in `DSKDLoss.from_models`.
        projector_lr: what the setting's rate of projectors and aligner is multiplied with.
        held: share of the steps in which the student stays as it is, so that projectors learn first.
        teacher_text: whether its training texts are those that the teacher has written.
    """

    title: str
    spec: DSKDSpec
    teacher: bool = True
    longer: float = 1.0
    vocabulary_method: Any = "bytes"
    projector_lr: float = 1.0
    held: float = 0.0
    teacher_text: bool = False

    @property
    def collated_for(self) -> Aligner:
        """The aligner that batches are made for. Attention gets the exact pairs, to measure itself by."""
        module = self.spec.aligner.build(student_embedding_size=1, teacher_embedding_size=1)
        return ExactMatch() if isinstance(module, CrossModelAttentionModule) else self.spec.aligner


def _alone(aligner: str, **options: Any) -> Arm:
    """Return cross entropy without a teacher."""
    fields: dict[str, Any] = {"s2t_projector": "linear", "spaces": [TeacherSpace()], "kd_rate": 0.0}
    return Arm(spec=DSKDSpec(aligner=aligner, **fields), teacher=False, **options)


def heat(temperature: float) -> dict[str, Any]:
    """Return a temperature, with the loss times its square, so that gradients keep their size.

    Args:
        temperature: what logits are divided by.
    """
    return {"temperature": temperature, "temperature_squared": True}


def _one_vocabulary() -> dict[str, Arm]:
    from_heads, vanilla = DSKDSpec.preset("dskd", **HEADS), DSKDSpec.preset("vanilla-kd")
    distances = ("reverse_kl", "js", "skew_kl", "skew_reverse_kl", "adaptive_kl")
    everywhere = {
        f"dskd-{name}": Arm(
            title=f"`dskd` from the heads, by `{name}`",
            spec=from_heads.replace(distance=name, spaces=(StudentSpace(), TeacherSpace())),
        )
        for name in distances
    }
    return {
        "ce": _alone("identity", title="cross entropy alone"),
        "ce-longer": _alone("identity", title="cross entropy alone, 1.5 times the steps", longer=1.5),
        "teacher-text": _alone("identity", title="cross entropy on the teacher's text", teacher_text=True),
        "vanilla-kd": Arm(title="`vanilla-kd`", spec=vanilla),
        "vanilla-T-2": Arm(title="`vanilla-kd`, temperature 2", spec=vanilla.replace(**heat(2.0))),
        # A step of what is recommended takes 1.5 times as long.
        "vanilla-longer": Arm(title="`vanilla-kd`, 1.5 times the steps", spec=vanilla, longer=1.5),
        "dskd": Arm(title="`dskd`, as published", spec=DSKDSpec.preset("dskd")),
        "dskd-heads": Arm(title="`dskd` from the heads", spec=from_heads),
        "teacher-space": Arm(
            title="`dskd` from the heads, the teacher's space alone",
            spec=from_heads.replace(spaces=(TeacherSpace(distance=KL()),)),
        ),
        "dskd-v2": Arm(title="`dskd-v2`, as published", spec=DSKDSpec.preset("dskd-v2")),
        "dskd-vanilla": Arm(
            title="`recommended-one-vocabulary`",
            spec=from_heads.replace(spaces=(SharedVocabularySpace(), *BOTH_SPACES)),
        ),
        **everywhere,
    }


def _two_vocabularies() -> dict[str, Arm]:
    exact = DSKDSpec(aligner="exact_match", spaces=BOTH_SPACES, **HEADS)
    strict = {"name": "uld_hybrid", "unmatched_weight": 0.0}
    shared = DSKDSpec(spaces=[strict], aligner="exact_match")
    min_edit = shared.replace(aligner="min_edit")
    hybrid = DSKDSpec(spaces=["uld_hybrid"], aligner="exact_match", kd_rate=0.8)
    return {
        "ce": _alone("exact_match", title="cross entropy alone"),
        "ce-longer": _alone("exact_match", title="cross entropy alone, 1.5 times the steps", longer=1.5),
        # A step of what is recommended takes 1.14 times as long.
        "ce-same-time": _alone("exact_match", title="cross entropy alone, 1.15 times the steps", longer=1.15),
        "teacher-text": _alone("exact_match", title="cross entropy on the teacher's text", teacher_text=True),
        "exact-heads": Arm(title="`exact_match` from the heads", spec=exact),
        "dskd-cma": Arm(title="`dskd-cma`, as published", spec=DSKDSpec.preset("dskd-cma")),
        "uld-hybrid": Arm(title="hybrid ULD, `exact_match`, kd_rate 0.8", spec=hybrid),
        "hybrid-T-4": Arm(
            title="hybrid ULD, `exact_match`, kd_rate 0.8, temperature 4", spec=hybrid.replace(**heat(4.0))
        ),
        "exact-+-hybrid-kd-0.3": Arm(
            title="both spaces from the heads, and hybrid ULD, kd_rate 0.3",
            spec=exact.replace(spaces=({"name": "uld_hybrid"}, *BOTH_SPACES), kd_rate=0.3),
        ),
        "strict": Arm(title="shared tokens alone, `exact_match`", spec=shared),
        "shared-T-2": Arm(title="shared tokens alone, `exact_match`, temperature 2", spec=shared.replace(**heat(2.0))),
        "strict-T-4": Arm(title="`recommended-two-vocabularies`", spec=shared.replace(**heat(4.0))),
        "exact-strict": Arm(
            title="`exact_match` from the heads, and shared tokens",
            spec=exact.replace(spaces=(strict, *BOTH_SPACES)),
        ),
        "teacher-space": Arm(
            title="`exact_match` from the heads, the teacher's space alone",
            spec=exact.replace(spaces=(TeacherSpace(distance=KL()),)),
        ),
        "span-heads": Arm(title="`span` from the heads", spec=exact.replace(aligner="span")),
        "cma-shared": Arm(
            title="attention started from shared tokens, from the heads",
            spec=exact.replace(aligner=SharedQueryAttention()),
        ),
        "dskd-v2-eta": Arm(title="`dskd-v2-eta`, as published", spec=DSKDSpec.preset("dskd-v2-eta")),
        "exact-linear": Arm(
            title="`dskd-cma` with `exact_match`",
            spec=DSKDSpec.preset("dskd-cma", aligner="exact_match"),
        ),
        "uld": Arm(title="ULD (`uld`, `positional`)", spec=DSKDSpec(spaces=["uld"], aligner="positional")),
        "min-edit": Arm(title="shared tokens alone, `min_edit`", spec=min_edit),
        "min_edit-T-4": Arm(title="shared tokens alone, `min_edit`, temperature 4", spec=min_edit.replace(**heat(4.0))),
        "kq": Arm(title="`dskd-cma` with `kq`", spec=DSKDSpec.preset("dskd-cma", aligner="kq")),
    }


def arms_of(setting: SettingName) -> Mapping[str, Arm]:
    """Return the arms of a setting, by name.

    Args:
        setting: the setting.
    """
    return _one_vocabulary() if vocabularies(setting) == "one" else _two_vocabularies()


ORDER: Final[tuple[tuple[SettingName, tuple[str, ...]], ...]] = (
    ("two", ("ce", *RECOMMENDED["two"], "exact-+-hybrid-kd-0.3", "exact-heads", "dskd-cma", "uld-hybrid")),
    ("one", ("ce", *RECOMMENDED["one"], "vanilla-kd", "dskd-heads", "dskd", "dskd-v2")),
    ("two", ("strict", "span-heads", "cma-shared", "exact-linear")),
    ("one", ("teacher-space", "ce-longer", "teacher-text")),
    ("scarce", ("ce", *RECOMMENDED["two"], "exact-heads", "uld-hybrid", "dskd-cma")),
    ("scarce-one", ("ce", *RECOMMENDED["one"], "vanilla-kd", "dskd-heads")),
    ("two", ("exact-strict", "teacher-space", "dskd-v2-eta", "uld", "min-edit", "kq", "ce-longer", "teacher-text")),
    ("one", ("dskd-reverse_kl", "dskd-js", "dskd-skew_kl", "dskd-skew_reverse_kl", "dskd-adaptive_kl")),
    ("two", ("min_edit-T-4", "hybrid-T-4", "shared-T-2", "ce-same-time")),
    ("one", ("vanilla-T-2", "vanilla-longer")),
    ("plentiful", ("ce", *RECOMMENDED["two"], "exact-heads", "uld-hybrid")),
    ("plentiful-one", ("ce", *RECOMMENDED["one"], "vanilla-kd", "dskd-heads")),
    ("few", ("ce", *RECOMMENDED["two"], "exact-heads", "uld-hybrid")),
    ("few-one", ("ce", *RECOMMENDED["one"], "vanilla-kd", "dskd-heads")),
)
"""The queue, the most telling first: all arms of a line are tuned, then trained with the other seeds."""

HEADLINE: Final[frozenset[tuple[SettingName, str]]] = frozenset(
    {
        *(("two", arm) for arm in ("ce", *RECOMMENDED["two"], "exact-heads", "uld-hybrid", "dskd-cma")),
        *(("one", arm) for arm in ("ce", *RECOMMENDED["one"], "vanilla-kd", "dskd-heads")),
    }
)
"""The arms that have more seeds than the others."""
