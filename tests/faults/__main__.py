"""Run the long tests of faults: ``python -m tests.faults``."""

from tests.faults.plan import main

# Spawned processes import `Plan` by its module; they do not import a package's __main__.
main()
