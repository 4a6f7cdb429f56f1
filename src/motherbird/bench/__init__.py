"""Benchmarks of motherbird and other libraries on one machine, with one model and the same ids."""
