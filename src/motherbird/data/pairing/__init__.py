"""Training pairs for retrieval, made from code, prose and tables."""
