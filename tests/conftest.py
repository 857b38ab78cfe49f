"""One thread for everything: small matrices and networks only get slower on more."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)

# A program that test_processes starts twice.
collect_ignore = ["two_processes.py"]
