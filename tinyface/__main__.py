"""``python -m tinyface`` is the command ``tinyface``."""

from tinyface.cli.main import main

if __name__ == "__main__":
    main()
