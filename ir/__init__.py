"""What programs are made of: SSA, attributes, text, verifier, interpreter, dialects."""
