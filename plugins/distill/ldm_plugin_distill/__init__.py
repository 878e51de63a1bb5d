"""Few-step models by distillation; from Python by ``distil`` and ``student`` of its module ``recipe``."""
