"""Measuring motherbird against its peers on one machine, with one geometry and one token list."""
