"""Builds small stores in processes of their own, which may be killed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.helpers.stores import build, collator, samples, teacher

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

OPTIONS = {"batch_size": 2, "shard_bytes": 1500, "dtype": "int8"}
COUNT = 24


def build_what_is_asked_for(pipe: Connection) -> None:
    """Build in each folder that is sent, in a child: its number is sent when it begins, a word when it has ended."""
    teacher(), collator()  # made here, so that what is killed is the build
    pipe.send("ready")
    while True:
        folder = pipe.recv()
        child = os.fork()
        if not child:
            build(folder, samples(COUNT), **OPTIONS)
            os._exit(0)
        pipe.send(child)
        os.waitpid(child, 0)
        pipe.send("ended")
