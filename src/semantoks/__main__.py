"""``python -m semantoks`` is the command line."""

from semantoks.commands.main import main

main()
