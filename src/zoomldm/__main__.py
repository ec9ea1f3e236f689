"""`python -m zoomldm`: the command line."""

from zoomldm.cli import main

if __name__ == "__main__":  # processes of a pool import this module too
    main()
