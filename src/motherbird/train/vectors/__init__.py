"""Runs that train models of vectors: distillation from a teacher, retrieval, late interaction."""
