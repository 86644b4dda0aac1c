"""Presentation: figures, labels, sentences, charts, formulas and templates."""
