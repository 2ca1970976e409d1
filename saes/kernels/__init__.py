"""Compiled kernels of the sparse training step: `cpu` (numba) and `gpu` (Triton), each imported only where it is used.

Both walk the active entries of a batch instead of the dense [rows, features] matrix. A stack of N dictionaries trains
on the same B inputs, so that there are R = N·B rows, row n·B + b being input b in dictionary n, and N·F columns, column
n·F + f being feature f of dictionary n. N = 1 is the usual case.
"""
