"""`python -m eyespot` is the same as `eyespot`."""

from eyespot.cli import main

if __name__ == "__main__":
    main()
