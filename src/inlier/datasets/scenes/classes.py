"""What a pixel of a drawn street can be: nine classes, and the index of each as its label."""

from __future__ import annotations

__all__ = ["BUILDING", "CAR", "CLASSES", "MARKING", "PAVEMENT", "PERSON", "ROAD", "SIGN", "SKY", "TREE"]

CLASSES = ("sky", "building", "road", "lane marking", "pavement", "tree", "car", "person", "sign")
SKY, BUILDING, ROAD, MARKING, PAVEMENT, TREE, CAR, PERSON, SIGN = range(len(CLASSES))
