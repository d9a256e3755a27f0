"""`abra-wilds tables` as a script; see abra_wilds/commands/board/tables.py."""

import sys

from abra_wilds.commands.board.tables import main

if __name__ == "__main__":
    sys.exit(main())
