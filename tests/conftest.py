"""One thread for everything: more only slow down small matrices and networks."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

# Programs that test_sharded and test_processes start twice.
collect_ignore = ["sharded_processes.py", "two_processes.py"]
