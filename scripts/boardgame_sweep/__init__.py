"""The parts of scripts/replicate_boardgames.py: what is trained, how it is trained, measured and written down."""
