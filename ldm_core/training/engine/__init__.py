"""DeepSpeed engines and the processes around them."""
