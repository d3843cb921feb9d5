import sys

from effssl.__main__ import main

sys.exit(main(["train", *sys.argv[1:]]))
