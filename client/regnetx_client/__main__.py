"""``python -m regnetx_client``: the command ``regnetx``."""

import sys

from regnetx_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
