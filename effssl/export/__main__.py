import sys

from effssl.__main__ import main

sys.exit(main(["export", *sys.argv[1:]]))
