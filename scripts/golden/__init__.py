"""The references that scripts/check_golden.py compares Kibitz with, one module each."""
