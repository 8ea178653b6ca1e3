"""What a child of the `command` fixture does: run the command line with output to files, under a
file-size limit if one is given.
"""

import os
import resource
import sys

from experiments import main

for number, path in ((1, OUT), (2, ERR)):  # noqa: F821  (OUT, ERR, ARGV and LIMIT are handed over by the fixture)
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
if LIMIT:  # noqa: F821
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))  # noqa: F821
sys.exit(main.run(ARGV))  # noqa: F821
