"""`python -m unflinch`."""

from unflinch.cli.main import main

if __name__ == "__main__":
    main()
