"""The compiler's names: building a graph, and checking it."""
