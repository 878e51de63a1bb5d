"""Time, operations, memory and peak of the components."""
