"""The applications that the benchmarks start, each as its library's documentation writes it."""
