"""Search over sets of documents: what is searched, how, and how well."""
