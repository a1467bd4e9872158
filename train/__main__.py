"""Run ``eventdata train`` as ``python -m train``, because torchrun starts modules."""

import sys

from eventdata.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
