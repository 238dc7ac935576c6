"""A teacher's states on disk: run it once, and train as many students as you like without it.

`teacher_store` stands where a teacher does, `teacher_cache` does so with the teacher beside it, and `read_ahead` brings
states along with the batches. The way in:
`build` runs a teacher (`run_teacher`) and writes `shards` of `formats`; `manifest` and `teacher_tensors` say whose they
are. The way out: the `reader` looks `batch_samples` up in the `index`, and states travel as `batch_columns`. `merge`
and `verify` look after what is there, and `progress` says how far a build is. Import the names below, or from the
package.
"""

from dskd_components.store.read_ahead import ReadAheadCollator
from dskd_components.store.teacher_cache import TeacherCache
from dskd_components.store.teacher_store import TeacherStore

__all__ = ["ReadAheadCollator", "TeacherCache", "TeacherStore"]
