"""`python -m kibitz`, which is also how torchrun starts it: torchrun --nproc-per-node 8 -m kibitz train ..."""

from kibitz.cli import main

if __name__ == "__main__":
    main()
