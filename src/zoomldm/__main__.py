"""`python -m zoomldm`: the command line."""

from zoomldm.cli import main

main()
