"""Embedders and retrievers for other libraries; each module needs its library."""
