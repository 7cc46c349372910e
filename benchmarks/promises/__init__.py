"""Whether what onnxpfp promises of a written file holds, measured."""
