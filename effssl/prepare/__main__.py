import sys

from effssl.__main__ import main

sys.exit(main(["prepare", *sys.argv[1:]]))
