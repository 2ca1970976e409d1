"""What `scripts/shift_ground_truth.py` stands on: sets of dictionaries, and tasks of which the truth is known."""
