"""`python -m onnxpfp` is `onnxpfp`."""

from onnxpfp.cli.main import main

if __name__ == "__main__":
    main(prog_name="onnxpfp")
