"""``python -m motherbird``."""

from motherbird.cli.main import main

main()
