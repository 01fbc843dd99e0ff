"""SVM: the processor (hw, intercepts, instructions, checks, clean) and the L0 that runs on it."""
