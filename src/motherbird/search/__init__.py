"""Search over the files of a directory: chunks, full text, vectors, ranking rules, an index."""
