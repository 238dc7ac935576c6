"""Settings that every test shares."""

from __future__ import annotations

import gc
import re
from typing import Any

import pytest
import torch
from hypothesis import Phase, settings

# One thread: two workers share two cores, and results do not depend on how many there are.
torch.set_num_threads(1)

# Where there is none of these, `torch.manual_seed` notes the whole stack for each, for a seed to set once there is one:
# a millisecond, thousands of times.
if not torch.accelerator.is_available():
    for accelerator in (torch.cuda, torch.xpu, torch.mtia):
        accelerator.manual_seed_all = lambda seed: None

settings.register_profile("default", deadline=None, derandomize=True, print_blob=True, max_examples=50)
# Mutation asks only whether a test fails, not for the smallest case.
settings.register_profile("mutation", settings.get_profile("default"), phases=(Phase.explicit, Phase.generate))
settings.load_profile("default")

# What takes seconds to prepare is kept for a whole process, so files that prepare the same go to one worker.
PREPARE_THE_SAME = {
    "real tokenizers": re.compile(r"examples\.offline\.tokenizers|tests\.helpers import texts"),
    "processes that have imported": re.compile(r"tests\.helpers\.process"),
}
# A few long tests, so xdist would start them last, and one worker would wait for the other.
LONG = re.compile(r"^import subprocess|pytest\.mark\.slow", re.MULTILINE)


def pytest_collection_finish() -> None:
    """Leave out what is imported and collected by now, which stays to the end, when garbage is looked for.

    It takes half a second each time, and trainers look for garbage before each training.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Distribute by files, as ``--dist loadfile`` does, but keep together what prepares the same; long files first."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return units.get(file, file)

        def _assign_work_unit(self, node: Any) -> None:
            for unit in self.workqueue:
                if unit in long:
                    self.workqueue.move_to_end(unit, last=False)
                    break
            super()._assign_work_unit(node)

    texts = {
        path.relative_to(config.rootpath).as_posix(): path.read_text(encoding="utf-8")
        for path in config.rootpath.glob("tests/**/test_*.py")
    }
    units = {
        file: unit
        for file, text in texts.items()
        for unit, imported in PREPARE_THE_SAME.items()
        if imported.search(text)
    }
    long = {units.get(file, file) for file, text in texts.items() if LONG.search(text)}
    return Together(config, log)
