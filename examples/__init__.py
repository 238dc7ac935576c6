"""Examples that run: see `examples.distil_two_tokenizers`.

The environment below is read when torch and transformers are imported, so it is set before.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait for one another sleep: spinning makes a machine that does other work too many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
