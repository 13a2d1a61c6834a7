import sys

from cached.worker.process import main

sys.exit(main(sys.argv[1:]))
