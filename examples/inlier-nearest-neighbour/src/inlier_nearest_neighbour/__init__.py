"""A detector and a perturbation for inlier."""
