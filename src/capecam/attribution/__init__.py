"""CAM formulas and the engine that runs them: the only package that calls autograd."""
