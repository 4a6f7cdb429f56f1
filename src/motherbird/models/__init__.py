"""Models that turn texts into results."""
