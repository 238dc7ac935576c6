"""Specs in files: YAML or JSON, read without running anything, every problem with the path of its field."""

from dskd_components.spec_file.problems import SpecFileError, SpecProblem
from dskd_components.spec_file.reading import load_spec, parse_spec

__all__ = ["SpecFileError", "SpecProblem", "load_spec", "parse_spec"]
