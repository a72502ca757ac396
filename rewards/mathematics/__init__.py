"""How final answers are read and compared: notation, formulas, words, and equality."""
