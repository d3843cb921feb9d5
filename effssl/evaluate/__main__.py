import sys

from effssl.__main__ import main

sys.exit(main(["evaluate", *sys.argv[1:]]))
