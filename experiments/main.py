# python -u main.py ..., the RBNN authors' command word for word, is rbnn train ...
import sys

from tune.cli.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
