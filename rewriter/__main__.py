"""python -m rewriter"""

from rewriter.cli import main

if __name__ == "__main__":  # worker processes import this under another name
    main()
