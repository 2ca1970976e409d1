"""Othello: rules, transcripts, properties, counterfactual games."""
