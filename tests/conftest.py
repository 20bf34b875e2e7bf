"""Several tests at a time (``pytest -n 2``) share the cores: each computes on one."""

import os

# Before torch is imported: threads that wait for one another while others want their core cost a test many times its
# time. What a test starts inherits it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
