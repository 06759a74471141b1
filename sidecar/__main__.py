"""`python -m sidecar` is the console script."""

from sidecar.cli import main

if __name__ == "__main__":
    main()
