"""VMX: the processor (hw, intercepts, virt, checks, vapic, timer) and the L0 that runs on it."""
