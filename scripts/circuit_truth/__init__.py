"""Circuits against what is known: Othello's rules, planted transformers, subject-verb agreement."""
