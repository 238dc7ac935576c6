"""Specs in files: YAML or JSON, read without running anything, every problem with the path of its field."""

from dskd_components.spec_file.multi_teacher import (
    load_multi_teacher_spec,
    parse_either_spec,
    parse_multi_teacher_spec,
)
from dskd_components.spec_file.problems import SpecFileError, SpecProblem
from dskd_components.spec_file.reading import load_spec, parse_spec

__all__ = [
    "SpecFileError",
    "SpecProblem",
    "load_multi_teacher_spec",
    "load_spec",
    "parse_either_spec",
    "parse_multi_teacher_spec",
    "parse_spec",
]
