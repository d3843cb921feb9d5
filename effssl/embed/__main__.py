import sys

from effssl.__main__ import main

sys.exit(main(["embed", *sys.argv[1:]]))
