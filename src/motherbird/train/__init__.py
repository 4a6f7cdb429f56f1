"""The only training loop in the package."""
