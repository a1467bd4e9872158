"""``python -m eventdata`` is the command ``eventdata``."""

from eventdata.cli import main

main(prog_name="eventdata")
