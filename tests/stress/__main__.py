"""python -m tests.stress"""

from tests.stress.interruptions import main

if __name__ == "__main__":  # its processes import this under another name
    main()
