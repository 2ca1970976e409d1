"""Chess as a language: transcripts, positions, and the properties of boards."""
