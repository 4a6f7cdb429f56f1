"""Vectors of many texts in Parquet shards, by tasks that can be repeated; see `shards`."""
