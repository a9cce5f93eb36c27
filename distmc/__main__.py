"""``python -m distmc``: the command line without the installed script."""

from distmc.cli import main

main()
