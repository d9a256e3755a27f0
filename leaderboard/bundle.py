"""`abra-wilds bundle` as a script; see abra_wilds/commands/board/bundle.py."""

import sys

from abra_wilds.commands.board.bundle import main

if __name__ == "__main__":
    sys.exit(main())
