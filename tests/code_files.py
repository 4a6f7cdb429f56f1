"""Source code to search in."""

WORDS = ("parse", "render", "open", "close", "route", "session", "token", "buffer")


def source(number):
    """Return a file with two functions, which depend on a number."""
    first, second = (WORDS[(number + n) % len(WORDS)] for n in (0, 3))
    return (
        f'"""About {first} number {number}."""\n\n'
        f"def {first}_{second}(value):\n    return {first}(value, {number})\n\n\n"
        f"def {second}{number}(other):\n    # the {first} of a {second}\n    return other\n"
    )
