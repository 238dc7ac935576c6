"""``dskd schema``: the JSON Schema of specs, installed plugins included."""

from __future__ import annotations

from typing import Annotated

import typer

from dskd_components.cli.terminal import plain_json
from dskd_components.spec.dskd_spec import DSKDSpec
from dskd_components.spec.multi_teacher import MultiTeacherSpec, TeacherSpec
from dskd_components.spec.presets import PRESETS
from dskd_components.spec.reading import PRESET


def print_schema(
    for_files: Annotated[
        bool, typer.Option("--for-files", help="Of spec files, which may also have a preset; for editors.")
    ] = False,
    multi_teacher: Annotated[bool, typer.Option("--multi-teacher", help="Of specs with several teachers.")] = False,
) -> None:
    """Print the JSON Schema of a spec, with every installed component and its options."""
    described = MultiTeacherSpec.model_json_schema() if multi_teacher else DSKDSpec.model_json_schema()
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **described}
    if for_files:
        preset = {"enum": list(PRESETS), "description": "The preset whose fields the others replace."}
        pair = schema["$defs"][TeacherSpec.__name__] if multi_teacher else schema
        pair["properties"] = {PRESET: preset, **pair["properties"]}
    plain_json(schema)
