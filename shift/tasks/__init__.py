"""SHIFT tasks by domain."""
