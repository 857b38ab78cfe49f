"""One thread for everything: small matrices and networks only get slower on more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

# Programs that test_sharded and test_processes start twice.
collect_ignore = ["sharded_processes.py", "two_processes.py"]
