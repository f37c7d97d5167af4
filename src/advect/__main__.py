"""``python -m advect`` is the command."""

from advect.cli import main

if __name__ == "__main__":
    main()
