"""Tables of slides, cases, labels and splits."""
