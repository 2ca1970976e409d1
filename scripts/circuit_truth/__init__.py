"""The parts of scripts/circuit_ground_truth.py: circuits held against what is known to be true."""
