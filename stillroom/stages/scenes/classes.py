"""The classes of a drawn frame's label, and those of its boxes."""

CLASSES = ("sky", "building", "road", "pavement", "tree", "pole", "sign", "car", "pedestrian")
SKY, BUILDING, ROAD, PAVEMENT, TREE, POLE, SIGN, CAR, PEDESTRIAN = range(len(CLASSES))
THINGS = (CAR, PEDESTRIAN, SIGN)
"""What has a box, in the order of the boxes' classes."""
THING_NAMES = tuple(CLASSES[label] for label in THINGS)
