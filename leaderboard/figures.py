"""`abra-wilds figures` as a script; see abra_wilds/commands/board/figures.py."""

import sys

from abra_wilds.commands.board.figures import main

if __name__ == "__main__":
    sys.exit(main())
