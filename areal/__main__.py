"""``python -m areal``."""

from areal.cli import main

if __name__ == "__main__":
    main()
