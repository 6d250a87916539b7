"""Selection of an object that a person points at: hints in, a mask out. Imports neither torch nor OpenCV."""
