"""The typed choices: `DSKDSpec` and `MultiTeacherSpec`, their presets and schedules, and how they are read from files.

`dskd_spec` and `multi_teacher` have the two models; `presets` the published and the recommended methods; `schedules`
the weights that change over the steps; `reading`, with `documents` and `problems`, reads YAML and JSON without running
anything and reports every problem with the path of its field. Import the names below, or from the package.
"""

from dskd_components.components.schedule import Schedule
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.multi_teacher import MultiTeacherSpec, TeacherSpec
from dskd_components.spec.problems import SpecFileError, SpecProblem
from dskd_components.spec.reading import load_multi_teacher_spec, load_spec, parse_spec
from dskd_components.spec.schedules import CosineSchedule, LinearSchedule, PiecewiseSchedule

__all__ = [
    "CosineSchedule",
    "DSKDSpec",
    "LinearSchedule",
    "MultiTeacherSpec",
    "PiecewiseSchedule",
    "Schedule",
    "SpecFileError",
    "SpecProblem",
    "TeacherSpec",
    "load_multi_teacher_spec",
    "load_spec",
    "parse_spec",
]
