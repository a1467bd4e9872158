"""``python -m train``: the same as ``eventdata train`` (for torchrun, which starts modules)."""

import sys

from eventdata.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
