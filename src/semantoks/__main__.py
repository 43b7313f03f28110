"""``python -m semantoks`` is the command line."""

from semantoks.cli import main

main()
